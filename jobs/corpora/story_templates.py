"""Made-up news items: `{person}`, `{person2}` are slots (`story_words.SLOTS`), `[said|announced]` is a choice of words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One kind of news. The questions of one slot are separated by `|` and mean the same."""

    title: str
    text: str
    asked: Mapping[str, str] = field(hash=False)


def _news(title: str, text: str, **asked: str) -> Template:
    return Template(title=title, text=text, asked=asked)


TEMPLATES: tuple[Template, ...] = (
    # business
    _news(
        "{company} buys {company2}",
        "{company} [said|announced] on {weekday} that it will buy {company2} for {money}. [The deal should close|It hopes to "
        "finish] in {month}.",
        money="How much will {company} pay for {company2}?|What is the price of {company2}?",
        company="Who is buying {company2}?|Which company will take over {company2}?",
        month="When should the purchase of {company2} close?",
    ),
    _news(
        "New chief at {company}",
        "{person} [becomes|will be|was named] chief executive of {company}, [succeeding|replacing|taking over from] {person2}, "
        "who led it for {few} years.",
        person="Who is the new chief executive of {company}?|Who now runs {company}?",
        person2="Who led {company} before?|Whom does {person} replace at {company}?",
        few="For how many years did {person2} lead {company}?",
    ),
    _news(
        "{company} results",
        "Sales of {company} [rose|grew|climbed] {percent} to {money} [last quarter|in the quarter], mostly thanks to {goods}, "
        "finance chief {person} said.",
        percent="By how much did sales of {company} rise?|How fast did {company} grow?",
        goods="What lifted the sales of {company}?|Which product helped {company} most?",
        person="Who is the finance chief of {company}?",
    ),
    _news(
        "Jobs at risk in {place}",
        "{company} will close its [factory|plant|works] in {place} by {month} {year}. {count} [people|workers] will lose their jobs.",
        place="Where will {company} close its plant?|Which town loses the {company} works?",
        count="How many people lose their jobs at {company}?|How many workers does the closure of {company} hit?",
    ),
    _news(
        "{company} recalls {goods}",
        "{company} is recalling {count} {goods} because of {cause} [found|discovered] by a {job} in {place}.",
        goods="What is {company} recalling?|Which product does {company} take back?",
        cause="Why is {company} recalling its {goods}?|What is wrong with the {goods} of {company}?",
        place="Where was the fault in the {goods} of {company} found?",
    ),
    _news(
        "Metal find in {country}",
        "{company} has found a [large|rich] deposit of {metal} near {place} in {country}. Mining [may|could] begin in {year}.",
        metal="What has {company} found near {place}?|Which metal lies near {place}?",
        year="When may mining near {place} begin?",
        company="Which company found {metal} in {country}?",
    ),
    _news(
        "{company} moves",
        "{company} is moving its [head office|headquarters] from {place} to {place2} [to save costs|to be nearer its "
        "customers], [saving|which saves] {money} a year.",
        place2="Where is {company} moving its head office?|To which city does {company} move?",
        place="Where was the head office of {company} until now?",
        money="How much does {company} save by moving?",
    ),
    _news(
        "Strike at {company}",
        "[Staff|Workers|Employees] of {company} in {place} have [walked out|gone on strike], demanding {percent} more pay. "
        "{person} speaks for the strikers.",
        percent="How much more pay do strikers at {company} demand?",
        person="Who speaks for the strikers at {company}?|Who leads the strike at {company}?",
        company="Where are workers in {place} on strike?",
    ),
    _news(
        "{company} order",
        "{country} has ordered {few} {goods} from {company}, to be delivered to {place} by {year}.",
        company="Who will supply {goods} to {country}?|From which company did {country} order {goods}?",
        few="How many {goods} has {country} ordered?",
        place="Where will {company} deliver the {goods}?",
    ),
    # sports
    _news(
        "{team} win final",
        "{team} beat {team2} {score} in the [cup|league|regional] final. {person} scored the [winning|decisive|last] goal after "
        "{few} minutes.",
        person="Who scored the winning goal for {team}?|Which player decided the final against {team2}?",
        score="What was the score of the final between {team} and {team2}?|How did {team} against {team2} end?",
        team="Who won the final against {team2}?|Which team beat {team2}?",
    ),
    _news(
        "{team} sign {person}",
        "{team} have signed [striker|goalkeeper|midfielder|defender] {person} from {team2} for {money}. [His|Her] contract runs to {year}.",
        team2="Which club did {person} leave?|Where did {person} play before joining {team}?",
        money="How much did {team} pay for {person}?|What was the fee for {person}?",
        year="Until when does the contract of {person} run?",
    ),
    _news(
        "Marathon of {place}",
        "{person} of {country} won the {place} marathon on {weekday}, [ahead of|beating] {person2} by {few} seconds.",
        person="Who won the {place} marathon?|Which runner was first in {place}?",
        person2="Who came second in the {place} marathon?",
        country="Which country does marathon winner {person} come from?",
        few="By how many seconds did {person} win in {place}?",
    ),
    _news(
        "{team} dismiss coach",
        "{team} have [dismissed|parted with|sacked] coach {person} after {few} defeats. {person2} takes over [for now|until summer].",
        person2="Who takes over as coach of {team}?|Who is the new coach of {team}?",
        person="Whom did {team} dismiss?|Who was coach of {team}?",
        few="How many defeats cost the coach of {team} the job?",
    ),
    _news(
        "{place} to host games",
        "{place} will host the [youth|winter|student|world] games in {year}, [beating|ahead of] {place2} by {few} votes.",
        place="Which city will host the games of {year}?",
        place2="Which city lost to {place} in the vote on the games?",
        year="In which year does {place} host the games?",
    ),
    _news(
        "Chess title for {person}",
        "{person}, a {job} from {place}, is the new chess champion of {country} after {few} games against {person2}.",
        person="Who is the chess champion of {country}?|Who beat {person2} at chess?",
        job="What is the profession of chess champion {person}?|What does {person} do for a living?",
        place="Where does chess champion {person} come from?",
    ),
    _news(
        "Injury at {team}",
        "{team} captain {person} will miss {few} weeks after [an injury|a fall|a collision] in training. {person2} wears the armband.",
        person="Who is the injured captain of {team}?",
        few="How many weeks will {person} be out?|For how long does {team} miss its captain?",
        person2="Who is captain of {team} while {person} is injured?",
    ),
    _news(
        "Record in {place}",
        "Swimmer {person} [broke|set|took] the {country} record over [200|400|800] metres in {place}, held since {past} by {person2}.",
        person="Which swimmer broke the record of {country}?|Who swam a record in {place}?",
        person2="Who held the swimming record of {country} before?",
        past="Since when had {person2} held the record?",
    ),
    _news(
        "Stadium for {team}",
        "{team} will [play in|move to] a new stadium with {count} seats [in|on the edge of] {place}, paid for by {company}.",
        company="Who pays for the stadium of {team}?|Which company finances the new stadium of {team}?",
        count="How many seats will the stadium of {team} have?",
        place="Where will {team} play in future?",
    ),
    _news(
        "Tour stage to {person}",
        "{person} won the [mountain|longest|fourth|rainy] stage from {place} to {place2} alone; {person2} keeps the {colour} jersey.",
        person="Who won the stage to {place2}?|Which rider was first in {place2}?",
        colour="What colour is the jersey of {person2}?",
        person2="Who keeps the {colour} jersey?|Who leads the tour after the stage to {place2}?",
        place="Where did the stage to {place2} start?",
    ),
    # politics
    _news(
        "{country}: new {post}",
        "{person} [has been appointed|was sworn in as|becomes] {post} of {country}, [succeeding|following] {person2}, who "
        "[resigned|stepped down] in {month}.",
        person="Who is the new {post} of {country}?|Name the {post} of {country}.",
        person2="Who was {post} of {country} before {person}?|Who resigned as {post} of {country}?",
        month="When did {person2} step down?",
    ),
    _news(
        "{place} elects mayor",
        "{person} won the mayoral election in {place} with {percent} of the vote. The loser, {person2}, [conceded|congratulated].",
        person="Who won the mayoral election in {place}?|Who is the new mayor of {place}?",
        percent="What share of the vote did {person} win in {place}?",
        person2="Who lost the mayoral election in {place}?|Whom did {person} beat in {place}?",
    ),
    _news(
        "Resignation in {country}",
        "{country}'s {post}, {person}, has resigned over [a secret payment of|gifts worth|a missing] {money} from {company}.",
        person="Who resigned in {country}?|Who was the {post} of {country}?",
        company="Which company paid the {post} of {country}?|Whose money brought down {person}?",
        money="What sum is the scandal around {person} about?",
    ),
    _news(
        "Treaty signed in {place}",
        "{country} and {country2} signed a treaty on {crop} in {place} on {date}. It [will hold|is to last] until {year}.",
        place="Where did {country} and {country2} sign the treaty?",
        crop="What is the treaty between {country} and {country2} about?",
        date="When did {country} and {country2} sign the treaty?",
        year="Until when will the treaty between {country} and {country2} hold?",
    ),
    _news(
        "{country} parliament",
        "The parliament of {country} [passed|approved|adopted] a law against {goods} with {count} votes; {person} had "
        "[proposed|drafted] it.",
        goods="What is the new law of {country} against?",
        person="Who proposed the new law in {country}?|Who wrote the law against {goods}?",
        count="How many votes did the law in {country} get?",
    ),
    _news(
        "Talks in {place}",
        "Talks between {country} and {country2} on the river {river} begin on {date} in {place}. {person} will [lead|chair] them.",
        person="Who chairs the talks between {country} and {country2}?",
        river="Which river are the talks between {country} and {country2} about?",
        place="Where do {country} and {country2} talk?",
        date="When do the talks about the {river} begin?",
    ),
    _news(
        "New party in {country}",
        "{person}, a [former|retired] {job}, has founded a party in {country}. Its colour is {colour} and it [claims|has] {count} members.",
        person="Who founded the new party in {country}?",
        colour="What is the colour of the party of {person}?",
        count="How many members does the party of {person} have?",
        job="What was the profession of {person}, who founded a party?",
    ),
    _news(
        "Tax in {place}",
        "{place} will tax visitors {few} euros a night from {month}, [council member|councillor|treasurer] {person} said.",
        few="How many euros a night will visitors to {place} pay?|How high is the visitor tax in {place}?",
        month="From when does {place} tax its visitors?",
        person="Who announced the visitor tax in {place}?",
    ),
    _news(
        "Border post opens",
        "{country} and {country2} [reopened|opened] the border crossing at {place} after {few} years. The first to cross was "
        "{person}, a {job}.",
        place="Which border crossing did {country} and {country2} open?",
        person="Who was the first to cross the border at {place}?",
        few="For how many years was the crossing at {place} closed?",
        job="What is the profession of {person}, who crossed at {place}?",
    ),
    # science and health
    _news(
        "New {animal}",
        "[Biologists|Scientists|Researchers] from the {university} [discovered|found|described] a new {animal} near {place} and "
        "named it after {person}.",
        university="Which university discovered the new {animal}?|Who found a new {animal} near {place}?",
        person="After whom is the new {animal} named?",
        place="Where was the new {animal} found?",
        animal="What was discovered near {place}?",
    ),
    _news(
        "Drug against {illness}",
        "A drug by {company} helped {percent} of patients with {illness} in a trial [led|run] by {person} in {place}.",
        illness="Which illness does the drug by {company} treat?|What is the drug of {company} for?",
        percent="What share of patients did the drug by {company} help?",
        person="Who led the trial of the drug by {company}?",
    ),
    _news(
        "Prize for {person}",
        "{person} of the {university} [receives|wins|is given] the {body} prize, worth {money}, for work on {illness}.",
        person="Who receives the prize of the {body}?",
        university="At which university does {person} work?",
        illness="What is the work of {person} about?|For work on what did {person} win the prize?",
    ),
    _news(
        "Outbreak in {place}",
        "{count} cases of {illness} have been [reported|counted|confirmed] in {place}. Doctors [blame|suspect] contaminated {crop}.",
        illness="Which disease has broken out in {place}?|What are people in {place} ill with?",
        count="How many cases of {illness} are there in {place}?",
        crop="What do doctors in {place} blame for the outbreak?",
    ),
    _news(
        "Satellite launched",
        "The {body} launched the satellite {river} on {date}. It will [measure|map] {metal} from space for {few} months.",
        river="What is the satellite of the {body} called?",
        metal="What will the satellite {river} measure?",
        date="When was the satellite {river} launched?",
        body="Who launched the satellite {river}?",
    ),
    _news(
        "Old ship found",
        "Divers [found|discovered|located] the wreck of the {work}, lost in {past} with {count} sacks of {crop}, off {place}.",
        place="Where was the wreck of the {work} found?",
        past="When was the {work} lost?|In which year did the {work} sink?",
        crop="What was the cargo of the {work}?|What did the {work} carry?",
    ),
    _news(
        "Tomb opened near {place}",
        "Archaeologist {person} [opened|uncovered] a tomb near {place}, {count} years old, with [beads|vessels|masks] of {metal}.",
        person="Who opened the tomb near {place}?|Which archaeologist worked near {place}?",
        metal="Of what metal are the things in the tomb near {place}?",
        count="How old is the tomb near {place}?",
    ),
    _news(
        "Asteroid named",
        "An asteroid [seen|discovered] in {past} by {person} has been named {river} by the {body}.",
        river="What is the asteroid of {person} called?",
        person="Who discovered the asteroid {river}?",
        body="Who named the asteroid {river}?",
        past="In which year was the asteroid {river} discovered?",
    ),
    _news(
        "Hospital for {place}",
        "A hospital for {illness} with {few} beds [opened|opens] in {place} on {date}. {person} is its [director|head doctor].",
        person="Who heads the hospital for {illness} in {place}?",
        few="How many beds has the new hospital in {place}?",
        illness="What does the new hospital in {place} treat?",
        date="When does the hospital in {place} open?",
    ),
    # weather and nature
    _news(
        "Storm {river}",
        "Storm {river} [hit|reached|struck] {place} on {weekday} with winds of {count} km/h. {count2} homes are without power.",
        place="Which town did storm {river} hit?|Where did storm {river} strike?",
        count2="How many homes did storm {river} leave without power?",
        weekday="On which day did storm {river} come?",
    ),
    _news(
        "Floods on the {river}",
        "The river {river} [burst its banks|flooded] near {place} on {date}. {person}, a {job}, [rescued|saved] {few} people "
        "[by boat|with a tractor].",
        river="Which river flooded near {place}?",
        person="Who rescued people near {place}?|Who saved people from the {river}?",
        few="How many people did {person} rescue?",
        job="What is the profession of {person}, who rescued people?",
    ),
    _news(
        "Drought in {country}",
        "[Drought|Heat|Lack of rain] has destroyed {percent} of the {crop} in {country}; farmers around {place} [ask for|demand] {money}.",
        crop="Which crop of {country} was destroyed?",
        percent="How much of the {crop} in {country} was destroyed?",
        place="Where in {country} do farmers ask for help?",
        money="How much money do farmers around {place} demand?",
    ),
    _news(
        "Quake near {place}",
        "An earthquake shook {place} [early|late] on {weekday}. {count} houses were damaged; [mayor|governor] {person} asked for tents.",
        place="Which place did the earthquake shake?",
        count="How many houses did the earthquake damage in {place}?",
        person="Who asked for tents after the earthquake in {place}?",
        weekday="On which day was the earthquake in {place}?",
    ),
    _news(
        "{animal} returns",
        "The {animal} is back in {country}: {few} [pairs|young|animals] were counted near {place} by the {body}.",
        animal="Which animal is back in {country}?",
        few="How many {animal} were counted near {place}?",
        body="Who counted the {animal} in {country}?",
    ),
    _news(
        "Snow in {place}",
        "{few} centimetres of snow fell in {place} [overnight|within hours], the most since {past}. The road to {place2} is closed.",
        few="How many centimetres of snow fell in {place}?",
        past="Since when had {place} not seen so much snow?",
        place2="Which road is closed by snow in {place}?",
    ),
    _news(
        "Volcano awake",
        "The volcano above {place} [erupted|came to life] on {date}, after {count} quiet years. {count2} people left their homes.",
        date="When did the volcano above {place} erupt?",
        count="For how many years was the volcano above {place} quiet?",
        count2="How many people fled from the volcano above {place}?",
    ),
    _news(
        "Forest fire",
        "A forest fire near {place} in {country} [burned|destroyed] {count} hectares. Police [say|think] {cause} started it.",
        cause="What started the forest fire near {place}?",
        count="How many hectares burned near {place}?",
        country="In which country is the fire near {place}?",
    ),
    # accidents and crime
    _news(
        "Train accident",
        "A train from {place} to {place2} [derailed|left the rails] on {weekday} because of {cause}. {few} passengers were [hurt|injured].",
        cause="Why did the train from {place} derail?|What caused the train accident?",
        place2="Where was the train from {place} going?",
        few="How many passengers of the train from {place} were hurt?",
    ),
    _news(
        "Robbery in {place}",
        "Thieves [stole|took] {work}, a painting by {person}, from the {body} [at night|on {weekday}]. It is worth {money}.",
        work="Which painting was stolen from the {body}?",
        person="Who painted {work}?",
        money="How much is {work} worth?",
        body="From where was {work} stolen?",
    ),
    _news(
        "Verdict in {place}",
        "A court in {place} sentenced {person}, a {job}, to {few} months for stealing {goods} from {company}.",
        person="Who was sentenced in {place}?",
        goods="What did {person} steal?",
        few="To how many months was {person} sentenced?",
        company="From which company did {person} steal?",
    ),
    _news(
        "Ship aground",
        "The freighter {river}, [carrying|loaded with] {goods} for {country}, ran aground off {place}. Captain {person} "
        "[blames|named] {cause}.",
        goods="What does the freighter {river} carry?",
        person="Who is the captain of the freighter {river}?",
        place="Where did the freighter {river} run aground?",
        cause="Why did the freighter {river} run aground?",
    ),
    _news(
        "Missing hiker found",
        "{person}, a {job} missing since {weekday}, was found [alive|unhurt] near {place} by [the dog of|a neighbour,|a pilot,] {person2}.",
        person="Who was found near {place}?|Which hiker had been missing?",
        place="Where was {person} found?",
        person2="Who found {person}?|To whom does {person} owe the rescue?",
    ),
    _news(
        "Power cut in {place}",
        "{place} was [dark|without power] for {few} hours [on {weekday}|last night] after {cause}, {company} said.",
        cause="What caused the power cut in {place}?|Why was {place} without power?",
        few="For how many hours was {place} without power?",
        company="Which company explained the power cut in {place}?",
    ),
    _news(
        "Fire at {company}",
        "A fire [damaged|destroyed|gutted] a warehouse of {company} in {place}. The damage is put at {money}; {person} [saw it "
        "first|raised the alarm].",
        place="Where did a warehouse of {company} burn?",
        money="How large is the damage at {company}?",
        person="Who saw the fire at {company} first?|Who noticed the fire at {company}?",
    ),
    _news(
        "Flight diverted",
        "A flight of {company} from {place} landed in {place2} [instead|unexpectedly] because of {cause}. On board was the "
        "singer {person}.",
        place2="Where did the flight from {place} land?",
        cause="Why was the flight from {place} diverted?",
        person="Which singer was on the flight from {place}?",
        company="Which airline flew from {place}?",
    ),
    # culture
    _news(
        "{work} wins",
        "{work}, a [novel|film|play|poem] by {person}, won the {body} award in {place} on {date}.",
        person="Who is the author of {work}?|Who made {work}?",
        body="Which award did {work} win?|Who gave an award to {work}?",
        place="Where was {work} awarded?",
    ),
    _news(
        "Role for {person}",
        "{person} will play a {job} in {work}, [directed|filmed] by {person2} in {place} [this|next] {month}.",
        job="What does {person} play in {work}?",
        person2="Who directs {work}?|Who is the director of {work}?",
        place="Where is {work} filmed?",
    ),
    _news(
        "Museum in {place}",
        "A museum of {goods} opens in {place} on {date}. [Collector|Founder|Curator] {person} gave {count} pieces.",
        goods="What does the new museum in {place} show?",
        person="Who gave the pieces to the museum in {place}?",
        count="How many pieces did {person} give?",
        date="When does the museum of {goods} open?",
    ),
    _news(
        "Concert in {place}",
        "{person} plays in {place} on {date} [before|for] {count} people. Tickets cost {few} euros; {person2} [opens|joins in].",
        person="Who plays in {place} on {date}?",
        few="How many euros does a ticket for {person} in {place} cost?",
        person2="Who opens the concert of {person}?|Who plays with {person} in {place}?",
    ),
    _news(
        "Bridge painted {colour}",
        "The old bridge over the {river} in {place} will be painted {colour}, [by vote of|as wished by] {count} citizens.",
        colour="What colour will the bridge in {place} be?|How will the bridge over the {river} be painted?",
        count="How many citizens voted on the bridge in {place}?",
        place="Where is the bridge over the {river}?",
    ),
    _news(
        "Festival of {crop}",
        "{place} celebrates its festival of {crop} from {date}. {person}, a {job}, was chosen [queen|king|patron] of the festival.",
        crop="What does the festival in {place} celebrate?",
        person="Who was chosen for the festival in {place}?",
        job="What is the profession of {person}, chosen in {place}?",
        date="When does the festival in {place} begin?",
    ),
    _news(
        "Manuscript sold",
        "A manuscript of {work}, written by {person} in {past}, was sold [at auction|privately] in {place} for {money}.",
        money="For how much was the manuscript of {work} sold?",
        past="When was {work} written?",
        place="Where was the manuscript of {work} sold?",
        person="Who wrote {work}?",
    ),
    _news(
        "Recipe of {person}",
        "Cook {person} of {place} won [gold|the title|first prize] with a soup of {crop} and {crop2}. The jury was led by {person2}.",
        person="Which cook won with a soup of {crop}?|Who won with a soup?",
        crop="What was in the soup of {person}?",
        person2="Who led the jury that chose {person}?",
    ),
    # technology and daily life
    _news(
        "{company} robot",
        "{company} [presented|showed|unveiled] a robot named {river} that harvests {crop}. It costs {money} and was built in {place}.",
        river="What is the robot of {company} called?",
        crop="What does the robot {river} harvest?",
        place="Where was the robot {river} built?",
    ),
    _news(
        "Attack on {company}",
        "Hackers [copied|stole|leaked] the data of {count} customers of {company} on {date}. They demand {money}.",
        count="How many customers of {company} lost their data?",
        money="How much do the hackers of {company} demand?",
        company="Which company was attacked by hackers on {date}?",
    ),
    _news(
        "Tram for {place}",
        "{place} is building a tram line to {place2}. {company} will [lay|supply] the {few} kilometres of track by {year}.",
        place2="Where will the tram line from {place} lead?",
        company="Which company builds the tram in {place}?",
        few="How long in kilometres is the tram line of {place}?",
        year="When will the tram line of {place} be ready?",
    ),
    _news(
        "Tunnel finished",
        "The tunnel under the {river} between {place} and {place2} [is finished|was opened] after {few} months. It is named "
        "after {person}.",
        person="After whom is the tunnel under the {river} named?",
        few="How many months did the tunnel under the {river} take?",
        river="Which river does the tunnel from {place} to {place2} cross?",
    ),
    _news(
        "App from {place}",
        "{person}, a {job} from {place}, [wrote|built] an app that recognises {animal} calls. {company} bought it for {money}.",
        person="Who wrote the app that recognises {animal} calls?",
        animal="What does the app of {person} recognise?",
        company="Who bought the app of {person}?",
        money="For how much did {company} buy the app of {person}?",
    ),
    _news(
        "School in {place}",
        "The school in {place} [is now called|was renamed] {person} School. {count} pupils voted; {person2} is its head teacher.",
        person="After whom is the school in {place} named?",
        person2="Who is the head teacher of the school in {place}?",
        count="How many pupils voted in {place}?",
    ),
    _news(
        "Oldest citizen of {place}",
        "{person}, the oldest citizen of {place}, turned {age} on {date}. [Once a|A former] {job}, [she|he] lives on {crop}.",
        person="Who is the oldest citizen of {place}?",
        age="How old is {person} of {place}?",
        job="What did {person} of {place} once do?",
        crop="What does {person} of {place} live on?",
    ),
    _news(
        "Lottery win",
        "A {job} from {place} won {money} in the lottery on {weekday} and will [give|leave] it all to the {body}.",
        job="What is the profession of the lottery winner from {place}?",
        money="How much did the {job} from {place} win?",
        body="To whom does the winner from {place} give the money?",
    ),
    _news(
        "Prices in {country}",
        "Inflation in {country} [fell|rose|went] to {percent} in {month}. {crop} [cost|became] most; central banker {person} "
        "[warned|was calm].",
        percent="What is the inflation in {country}?|How high is inflation in {country}?",
        person="Who is the central banker of {country}?",
        month="For which month is the inflation in {country}?",
    ),
    _news(
        "Wind farm off {place}",
        "{company} is building {few} wind turbines off {place}, enough for {count} homes. The {body} [objects|has complained] "
        "because of the {animal}.",
        few="How many wind turbines does {company} build off {place}?",
        animal="Because of which animal does the {body} object to turbines off {place}?",
        count="For how many homes are the turbines off {place}?",
        company="Who is building wind turbines off {place}?",
    ),
)
