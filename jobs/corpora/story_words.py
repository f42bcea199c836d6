"""What made-up news is filled with: names from many languages, places, organisations, amounts and dates, all drawn anew each time."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping


def _words(text: str) -> list[str]:
    return text.split()


def _phrases(text: str) -> list[str]:
    return [phrase.strip() for phrase in text.split("|") if phrase.strip()]


_GIVEN = _words(
    """Aiko Amara Anders Anjali Aroha Beatriz Bilal Bogdan Carmen Chidi Chloe Dagny Daniyar Delphine Dmitri Efua Eilidh Elif Emeka Enzo
    Farida Fatou Fenella Gaspard Giulia Goran Hamza Hanneke Haruto Ines Ingrid Isak Ishaan Ivana Jamila Jarek Jelena Joaquin Kaito
    Kalani Karim Katarina Keanu Kofi Kwame Lakshmi Lars Leilani Lior Ludmila Luis Mahmoud Maeve Maren Marisol Mateo Meera Milos
    Min-jun Mirela Nadia Naledi Ngozi Nikolai Noor Olumide Oksana Orsolya Paavo Pilar Priya Qiang Rafael Rania Renske Rosalind Rustam
    Saoirse Sanjay Selma Shira Sibusiso Signe Soraya Stellan Suda Tamar Tariq Tenzin Thandiwe Tobias Tomoko Uma Valentina Vikram
    Wanjiru Wei Xiomara Yara Yerlan Yusuf Zanele Zofia Arvid Bettina Cosmo Dorothea Edgar Flora Gwendolyn Hector Imogen Jasper Kirsten
    Leopold Minerva Nestor Ottilie Percy Quentin Rowena Sylvester Theodora Ursula Vernon Winifred"""
)
_SURNAMES = _words(
    """Abara Acheampong Adebayo Ahlgren Akhtar Alarcon Almeida Andrade Aoki Arslan Asante Bajwa Balogun Baptista Baranov Barzani Bello
    Berglund Bianchi Boateng Borges Brankovic Carvalho Castellano Chaudhry Cisse Cruz Dahlberg Danso Delacroix Demir Dhillon Diallo
    Dimitrov Dlamini Dvorak Ekwueme Eriksen Espinoza Farouk Fernando Ferreira Fitzgerald Fofana Fonseca Gallagher Ganbold Georgiou
    Ghosh Gomis Gruber Gunawan Haddad Halvorsen Hashimoto Hernandez Hoang Horvat Ibarra Iglesias Ilunga Ismailov Ito Iyer Jankowski
    Jovanovic Kamara Kapoor Karimov Kaya Keane Khumalo Kimura Kipchoge Kovacs Kruger Kuznetsova Lacroix Laine Lindqvist Lombardi Lopes
    MacAllister Madsen Mahlangu Makinen Malhotra Marchetti Mbeki Mendoza Mensah Moreau Moyo Mutasa Nakamura Navarro Nguyen Nieminen
    Novak Nwosu Obradovic Ochieng Oduya Okafor Okonkwo Olsen Omarova Ortega Osei Ozturk Papadakis Park Pavlenko Pereira Petrov Phiri
    Pietersen Popescu Quispe Rahman Rasmussen Rezaei Ribeiro Romano Rosenthal Saarinen Sahin Salazar Santoro Sato Schreiber Sesay
    Sithole Sokolov Stankovic Steenkamp Suleiman Svensson Szabo Takahashi Tamm Tanaka Tembo Toure Tran Tshabalala Ueda Urbina Valdez
    Vandenberg Varga Velasquez Verma Vinter Wachira Wallgren Weatherby Wongsakul Xu Yamamoto Yilmaz Zabala Zawadzki Zhou Zielinski
    Ashdown Birkett Cropper Dunstable Entwistle Fairclough Goodacre Harbottle Inchbald Jessop Kettlewell Longstaff Maitland Netherby
    Oakeshott Pemberton Quayle Ravenscroft"""
)
_CITIES = _words(
    """Aarhus Accra Adelaide Aleppo Almaty Antalya Arequipa Asmara Bamako Bergen Bilbao Bologna Bordeaux Brno Busan Cebu Chiang Mai
    Cochabamba Cordoba Coventry Cusco Dakar Debrecen Durban Edmonton Essen Fez Gaziantep Gdansk Geelong Ghent Graz Guayaquil Halifax
    Harbin Hobart Incheon Isfahan Izmir Jaipur Kampala Kandy Kaunas Kazan Kingston Kisumu Kobe Kochi Leipzig Lille Linz Ljubljana
    Lublin Lusaka Malmo Maputo Medellin Mendoza Mombasa Monterrey Mosul Nagoya Nantes Odense Oran Osijek Ottawa Penang Perth Plovdiv
    Porto Puebla Quito Recife Riga Rosario Rotterdam Salta Sapporo Sfax Split Surat Suva Tallinn Tampere Tartu Tbilisi Temuco
    Thessaloniki Toulouse Trieste Tromso Turku Utrecht Valencia Varna Vilnius Windhoek Winnipeg Wroclaw Yaounde Zagreb Zaragoza"""
)
_PLACE_FRONT = _words(
    """Ald Amber Ash Bel Black Bran Cal Cold Cor Dun East Elm Fal Glen Gold Gran Hal Hart Ken Kirk Lang Lin Mar Mill Mont North Ost Pen
    Ravens Red Ros Sel Sil Stan Thorn Tor Val Wald Wen White Wyn Zel"""
)
_PLACE_BACK = _words(
    """bach berg bridge burn by dale den ford gate ham haven hurst low mere mont mouth ness port sk stad stead stow tal thorpe ton vale
    ville wick worth"""
)
_COUNTRIES = _words(
    """Albania Angola Argentina Armenia Austria Bolivia Botswana Brazil Bulgaria Cameroon Chile Colombia Croatia Cyprus Denmark Ecuador
    Egypt Estonia Ethiopia Fiji Finland Georgia Ghana Greece Guyana Hungary Iceland India Indonesia Ireland Italy Jamaica Japan Jordan
    Kenya Latvia Lesotho Lithuania Malawi Malaysia Mali Malta Mexico Moldova Mongolia Morocco Namibia Nepal Nigeria Norway Oman Panama
    Paraguay Peru Poland Portugal Romania Rwanda Senegal Serbia Slovakia Slovenia Spain Suriname Sweden Switzerland Tanzania Thailand
    Togo Tonga Tunisia Turkey Uganda Uruguay Vietnam Zambia"""
)
_FIRM_FRONT = _words(
    """Abacus Aldermoor Altavia Arcturus Aurelia Basalt Beacon Borealis Brightwell Calder Candela Cedarline Cobalt Corvus Delphi Dovetail
    Ember Equinox Fathom Ferrovia Finch Galatea Granite Halcyon Harrow Helix Ibex Indigo Juniper Kestrel Keystone Lattice Lodestar
    Lumen Magnolia Meridian Mistral Nimbus Northwind Oakhurst Obsidian Orchard Palisade Pangea Pelican Pinnacle Quartz Quill Rivulet
    Sable Saffron Sextant Sirocco Solstice Sparrow Tamarind Tessera Thistle Trident Umbra Vantage Verdant Vireo Wayfarer Willow Xenon
    Yarrow Zephyr"""
)
_FIRM_BACK = _words(
    """Foods Energy Motors Bank Airlines Pharma Systems Logistics Textiles Media Steel Telecom Robotics Insurance Chemicals Shipping
    Mining Software Retail Partners Group Holdings Industries Labs Aerospace"""
)
_TEAM_BACK = _words(
    """United Rovers City Wanderers Athletic Falcons Lions Sharks Comets Bears Dynamos Hornets Ravens Stars Tigers Wolves Titans Foxes"""
)
_BODY_FRONT = _words(
    """National Royal Central International Coastal Northern Southern European African Pacific Independent Nordic Andean Federal"""
)
_BODY_BACK = _phrases(
    """Health Agency|Institute of Geology|Space Centre|Weather Service|Museum of Art|Library Trust|Railway Authority|Food Board|
    Housing Council|Ocean Institute|Energy Commission|Wildlife Fund|Teachers Union|Farmers League|Chess Federation|Book Foundation|
    Archive|Court of Audit|Ballet|Film Academy"""
)
_PAPERS = _phrases(
    """Herald|Courier|Evening Post|Morning Star|Gazette|Tribune|Chronicle|Daily Mail|Observer|Sentinel|Wire|News Agency|Times|Telegraph|
    Monitor|Bulletin|Business Daily|Radio"""
)
_WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_MONTHS = _words("January February March April May June July August September October November December")
_ANIMALS = _phrases(
    """pygmy owl|glass frog|river dolphin|snow leopard|spotted gecko|fruit bat|blind cavefish|hermit crab|golden beetle|mountain tapir|
    sea otter|grey crane|velvet spider|dwarf chameleon|bearded vulture|freshwater eel|tree kangaroo|horned viper|blue petrel|
    marsh harrier"""
)
_CROPS = _phrases(
    """barley|coffee|lentils|olives|cocoa|rice|apricots|potatoes|saffron|cotton|vanilla|walnuts|maize|tea|hops|figs|soybeans|cherries|
    chickpeas|sugar beet"""
)
_GOODS = _phrases(
    """electric buses|wind turbines|hearing aids|tractors|satellites|running shoes|heat pumps|drones|cargo bikes|solar panels|batteries|
    microscopes|sailing boats|coffee machines|insulin pumps|elevators|guitars|water filters|tyres|camera lenses"""
)
_METALS = _phrases(
    """lithium|copper|cobalt|nickel|tin|gold|zinc|tungsten|silver|graphite|manganese|titanium|bauxite|platinum|phosphate|uranium"""
)
_ILLS = _phrases(
    """malaria|asthma|migraine|measles|arthritis|cholera|glaucoma|anaemia|hepatitis|insomnia|eczema|diabetes|dengue|tuberculosis|
    psoriasis|gout"""
)
_HUES = _phrases("crimson|turquoise|ivory|emerald|scarlet|violet|amber|navy blue|olive green|silver|copper|lilac")
_ARTS = _phrases(
    """Winter|Glass|Silent|Last|Burning|Paper|Hidden|Salt|Seventh|Broken|Golden|Distant|Sleeping|Iron|Quiet|Northern|Borrowed|Endless|
    Crooked|Scarlet"""
)
_ART_BACK = _phrases(
    """Orchard|Harbour|Letters|Bridge|Garden|Horizon|Mirror|Station|Kingdom|Tide|Lanterns|Clockmaker|Voyage|Daughters|Forest|Mountain|
    Circus|Island|Sparrows|Window"""
)
_CAUSES = _phrases(
    """a faulty cable|heavy fog|a gas leak|a broken rail|black ice|a flat tyre|a lightning strike|a loose bolt|an overheated engine|
    a fallen tree|strong winds|a software error|a burst pipe|a signal failure|a stray dog|a forgotten candle|a cracked axle|
    a blocked drain|a landslide|a bird strike"""
)
_JOBS = _phrases(
    """baker|retired nurse|bus driver|schoolteacher|fisherman|electrician|librarian|carpenter|dentist|postman|shepherd|plumber|violinist|
    gardener|bookseller|taxi driver|beekeeper|mechanic|tailor|student"""
)
_RIVERS = _words(
    """Arrin Belva Corrin Dresna Elwe Farrow Garda Hesper Isolde Jorva Kelda Lorne Mirna Nessa Orla Pelda Rhona Sarva Tamsin Ulla Vesna
    Wharle Yarra Zora"""
)
_POSTS = _phrases(
    """finance minister|mayor|ambassador to France|trade minister|police chief|head of the central bank|health secretary|
    speaker of parliament|chief prosecutor|education minister|director of the port|national coach|archbishop|harbour master|
    army chief|energy minister|governor of the province"""
)

Draw = Callable[[random.Random], str]


def person(rng: random.Random) -> str:
    return f"{rng.choice(_GIVEN)} {rng.choice(_SURNAMES)}"


def place(rng: random.Random) -> str:
    return rng.choice(_CITIES) if rng.random() < 0.6 else rng.choice(_PLACE_FRONT) + rng.choice(_PLACE_BACK)


def company(rng: random.Random) -> str:
    front = rng.choice(_FIRM_FRONT) if rng.random() < 0.7 else rng.choice(_SURNAMES)
    return f"{front} {rng.choice(_FIRM_BACK)}"


def body(rng: random.Random) -> str:
    """An organisation: an agency, a museum, a union."""
    front = rng.choice(_BODY_FRONT) if rng.random() < 0.5 else place(rng)
    return f"{front} {rng.choice(_BODY_BACK)}"


def paper(rng: random.Random) -> str:
    return f"{place(rng)} {rng.choice(_PAPERS)}" if rng.random() < 0.7 else f"The {rng.choice(_PAPERS)}"


def work(rng: random.Random) -> str:
    """The title of a book, film or play."""
    return f"The {rng.choice(_ARTS)} {rng.choice(_ART_BACK)}"


def day(rng: random.Random) -> str:
    return f"{rng.randint(1, 28)} {rng.choice(_MONTHS)}"


def amount(rng: random.Random) -> str:
    unit = rng.choice(("dollars", "euros", "pounds", "francs", "dollars", "euros"))
    return f"{rng.randint(2, 980)} {rng.choice(('million', 'million', 'billion'))} {unit}"


def count(rng: random.Random) -> str:
    return f"{rng.choice((rng.randint(110, 999), rng.randint(1, 99) * 100, rng.randint(11, 99) * 1000)):,}"


def _of(words: list[str]) -> Draw:
    return lambda rng: rng.choice(words)


SLOTS: Mapping[str, Draw] = {
    "person": person,
    "place": place,
    "company": company,
    "body": body,
    "work": work,
    "team": lambda rng: f"{place(rng)} {rng.choice(_TEAM_BACK)}",
    "university": lambda rng: f"University of {place(rng)}" if rng.random() < 0.6 else f"{place(rng)} Technical University",
    "country": _of(_COUNTRIES),
    "date": day,
    "weekday": _of(_WEEKDAYS),
    "month": _of(_MONTHS),
    "year": lambda rng: str(rng.randint(2026, 2039)),
    "past": lambda rng: str(rng.randint(1720, 2019)),
    "money": amount,
    "count": count,
    "few": lambda rng: str(rng.randint(2, 98)),
    "percent": lambda rng: f"{rng.randint(2, 79)} percent" if rng.random() < 0.6 else f"{rng.randint(0, 19)}.{rng.randint(1, 9)} percent",
    "age": lambda rng: str(rng.randint(99, 117)),
    "score": lambda rng: f"{rng.randint(1, 6)}-{rng.randint(0, 5)}",
    "animal": _of(_ANIMALS),
    "crop": _of(_CROPS),
    "goods": _of(_GOODS),
    "metal": _of(_METALS),
    "illness": _of(_ILLS),
    "colour": _of(_HUES),
    "cause": _of(_CAUSES),
    "job": _of(_JOBS),
    "river": _of(_RIVERS),
    "post": _of(_POSTS),
}
