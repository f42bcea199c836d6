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
    given = rng.choice(_GIVEN) if rng.random() < 0.75 else invented(rng, 2)
    return f"{given} {rng.choice(_SURNAMES) if rng.random() < 0.7 else invented(rng)}"


def place(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(_CITIES)
    return rng.choice(_PLACE_FRONT) + rng.choice(_PLACE_BACK) if kind < 0.8 else invented(rng)


def company(rng: random.Random) -> str:
    kind = rng.random()
    front = rng.choice(_FIRM_FRONT) if kind < 0.5 else rng.choice(_SURNAMES) if kind < 0.7 else invented(rng)
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


_STREETS = _phrases("Street|Road|Avenue|Lane|Square|Quay|Boulevard|Hill|Row|Terrace")
_SHIP_FRONT = _phrases("MV|MS|SS|the trawler|the ferry|the tanker|the frigate|the yacht")
_PRIZE_BACK = _phrases("Prize|Medal|Award|Cup|Fellowship|Trophy|Scholarship")
_LAW_FRONT = _phrases(
    """Harbour Safety|Clean Rivers|Fair Rents|Night Work|Open Archives|School Meals|Rural Roads|Seed Saving|Data Trust|Coastal Fishing|
    Quiet Skies|Public Benches|Patient Records|Forest Fires|Street Trading|Small Lenders"""
)
_LAW_BACK = _phrases("Act|Bill|Decree|Ordinance|Code|Charter")
_DISHES = _phrases(
    """barley soup|smoked eel|lentil stew|rhubarb tart|pumpkin dumplings|goat curry|herring salad|walnut bread|saffron rice|bean fritters|
    plum cake|mutton pie|pickled beets|almond pudding|cassava porridge|chestnut pancakes"""
)
_INSTRUMENTS = _phrases("cello|oboe|accordion|harp|zither|trombone|viola|kora|bassoon|mandolin|organ|clarinet|oud|marimba|bagpipes|lute")
_SPORTS = _phrases(
    "handball|water polo|badminton|rowing|fencing|curling|table tennis|judo|volleyball|archery|snooker|lacrosse|hockey|cycling|squash"
)
_SUBJECTS = _phrases(
    "chemistry|Latin|geography|music|algebra|botany|woodwork|astronomy|grammar|statistics|ethics|drawing|physics|rhetoric|history"
)
_MATERIALS = _phrases("granite|oak|limestone|steel|bamboo|glass|brick|marble|copper|linen|clay|concrete|slate|leather|ceramic|cedar")
_FOODS = _phrases(
    "goat cheese|honey|rye bread|dried figs|olive oil|smoked trout|chocolate|yoghurt|noodles|sausages|marmalade|peanut butter"
)
_PARTY_FRONT = _phrases(
    "Meadow|Civic|Harbour|Liberal Farmers'|New Dawn|Workers' Unity|Green Valley|People's Bridge|Reform|Northern Hope|Radical Centre"
)
_PARTY_BACK = _phrases("Party|Alliance|Movement|League|Front|Union")
_LANGUAGES = _phrases(
    """Basque|Swahili|Estonian|Quechua|Tamil|Icelandic|Welsh|Georgian|Maori|Amharic|Catalan|Mongolian|Romansh|Hausa|Kurdish|Tagalog|Frisian|
    Nepali|Sami|Zulu"""
)
_ORDINALS = _words("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth")
_ONSETS = _words("b br c ch d dr f fl g gl h j k kr l m n p pr qu r s sh sk st t th tr v w x y z")
_NUCLEI = _words("a e i o u a e i o ai ea ia io ou ee y")
_CODAS = [*_words("n r l s t m k d x nd rn lt st sk"), "", "", ""]
_SOFT_BACK = _words("DB Flow Kit OS Lang Desk Scan Mesh Base Pad Sync Graph")


def invented(rng: random.Random, syllables: int | None = None) -> str:
    """A word nobody has read before."""
    count = syllables or rng.choice((2, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_NUCLEI) for _ in range(count)).capitalize() + rng.choice(_CODAS)


def _clock(rng: random.Random) -> str:
    hour, minute = rng.randint(1, 12), rng.choice((0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55))
    return f"{hour}{f'.{minute:02}' if minute else ''} {rng.choice(('a.m.', 'p.m.'))}"


def _duration(rng: random.Random) -> str:
    counts = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", str(rng.randint(12, 90)))
    return f"{rng.choice(counts)} {rng.choice(('hours', 'days', 'weeks', 'months', 'years', 'minutes'))}"


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
    "ship": lambda rng: f"{rng.choice(_SHIP_FRONT)} {rng.choice(_ARTS + _RIVERS + _GIVEN)}",
    "street": lambda rng: f"{rng.choice(_SURNAMES + _RIVERS)} {rng.choice(_STREETS)}",
    "bridge": lambda rng: f"{rng.choice((place, lambda r: r.choice(_SURNAMES)))(rng)} Bridge",
    "school": lambda rng: f"{place(rng)} {rng.choice(('Primary School', 'High School', 'Grammar School', 'Academy', 'Village School'))}",
    "festival": lambda rng: (
        f"{place(rng)} {rng.choice(('Film Festival', 'Jazz Days', 'Kite Festival', 'Book Fair', 'Harvest Festival', 'Light Week'))}"
    ),
    "prize": lambda rng: f"{rng.choice(_SURNAMES) if rng.random() < 0.6 else invented(rng)} {rng.choice(_PRIZE_BACK)}",
    "law": lambda rng: f"the {rng.choice(_LAW_FRONT)} {rng.choice(_LAW_BACK)}",
    "dish": _of(_DISHES),
    "instrument": _of(_INSTRUMENTS),
    "distance": lambda rng: f"{rng.randint(2, 990)} {rng.choice(('kilometres', 'metres', 'miles', 'kilometres'))}",
    "weight": lambda rng: f"{rng.randint(2, 990)} {rng.choice(('tonnes', 'kilograms', 'grams'))}",
    "temperature": lambda rng: f"{'minus ' if rng.random() < 0.3 else ''}{rng.randint(2, 46)} degrees",
    "duration": _duration,
    "clock": _clock,
    "ordinal": _of(_ORDINALS),
    "years": lambda rng: str(rng.randint(18, 91)),
    "name": invented,
    "sport": _of(_SPORTS),
    "subject": _of(_SUBJECTS),
    "material": _of(_MATERIALS),
    "food": _of(_FOODS),
    "brandnew": lambda rng: f"{invented(rng, 2)} {rng.choice((str(rng.randint(2, 19)), 'Pro', 'Mini', 'X', 'Air'))}",
    "party": lambda rng: f"the {rng.choice(_PARTY_FRONT)} {rng.choice(_PARTY_BACK)}",
    "hospital": lambda rng: f"{place(rng)} {rng.choice(('General Hospital', 'Infirmary', 'Clinic', 'University Hospital', 'Hospital'))}",
    "airport": lambda rng: f"{place(rng)} Airport",
    "island": lambda rng: f"{invented(rng, 2)} Island" if rng.random() < 0.6 else f"the island of {invented(rng)}",
    "mountain": lambda rng: f"Mount {invented(rng)}",
    "lake": lambda rng: f"Lake {invented(rng)}",
    "language": _of(_LANGUAGES),
    "software": lambda rng: f"{invented(rng, 2)}{rng.choice(_SOFT_BACK)}",
}
