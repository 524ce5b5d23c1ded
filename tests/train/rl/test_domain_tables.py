"""The built-in tables on real questions, and what is said of a table that is not well."""

import pytest

from audit.errors import BadInput
from train.rl.table import MOST_BYTES, built_in, parse, table_of

SWAPPED, KEPT, GATED = "swapped", "kept", "gated"
CASES = {
    "brain-mri": {
        SWAPPED: (
            "Is the lesion on the left?",
            "Is the Right hemisphere affected?",
            "Which side is it on, left or right?",
            "Is there a bright area in the right thalamus?",
            "RIGHT or LEFT ventricle?",
            "Is the mass left-sided?",
            "Does the midline shift rightward?",
            "What is the leftmost structure?",
            "Is it right or left?",
            "Is the (left) putamen dark?",
        ),
        KEPT: (
            "Which plane is shown?",
            "Is a lesion visible?",
            "Is the lesion bright or dark?",
            "Are the ventricles wide?",
            "Is the thalamus visible?",
            "What structures are visible?",
            "Is this the axial plane?",
            "How large is the lesion?",
            "Is the cortex thin above the lesion?",
            "On which side is the lesion?",
        ),
        GATED: (
            "Is this sagittal slice normal?",
            "Is the lesion in the anterior cingulate?",
            "Is Broca's area spared?",
            "Is that right?",
            "What is left of the tumour?",
            "Is the marker L or R?",
            "Is the dominant side affected?",
            "At what o'clock is the lesion?",
            "What does the label say?",
            "Is the lesion leftsided?",
            "Is the picture mirrored?",
            "Does the patient's nose point to the left?",
            "Is it lEFT?",
        ),
    },
    "chest-xray": {
        KEPT: (
            "Is there a pleural effusion?",
            "Is there a pneumothorax?",
            "Is the film taken PA or AP?",
            "Are there rib fractures?",
            "Is there consolidation?",
            "Is a tube in place?",
            "Is the patient upright?",
            "Is there pulmonary oedema?",
            "How many ribs are visible?",
            "Is the inspiration deep enough?",
            "Is there interstitial disease?",
            "Are there calcified nodules?",
        ),
        GATED: (
            "Is the heart enlarged?",
            "Is there cardiomegaly?",
            "Is the left lung clear?",
            "Which side is the effusion on?",
            "Is the aortic arch calcified?",
            "Is this situs inversus?",
            "Is the stomach bubble visible?",
            "Where does the apex point?",
            "Is the right hemidiaphragm raised?",
            "Is the trachea deviated?",
            "Is the cardiothoracic ratio above 0.5?",
            "Is there dextrocardia?",
            "Is the pacemaker lead in the ventricle?",
            "Is the azygos lobe present?",
            "Is the middle lobe collapsed?",
            "Where is the nodule?",
            "What does the marker say?",
            "Is the mediastinum widened?",
            "Is the effusion right-sided?",
            "Is it unilateral?",
        ),
    },
    "histology": {
        KEPT: (
            "Is this tissue benign or malignant?",
            "What is the stain?",
            "Are mitoses visible?",
            "Is there necrosis?",
            "Which organ is this from?",
            "How many glands are there?",
            "What is the Gleason grade?",
            "Are lymphocytes present?",
            "Is the stroma desmoplastic?",
            "Is there keratin?",
            "Are the nuclei round?",
            "Is fat visible?",
            "What is the magnification?",
            "Is there haemorrhage?",
            "Is the architecture cribriform?",
            "Are there signet ring cells?",
            "Is this adenocarcinoma?",
            "Is the epithelium intact?",
            "Is mucin present?",
            "What cells dominate?",
            "Are the margins free?",
        ),
        GATED: (
            "What is in the upper left corner?",
            "Is the tumour on the right?",
            "What lies below the epithelium?",
            "Is the gland at the top?",
            "What is at the bottom of the field?",
            "Are the fibres horizontal?",
            "Which quadrant holds the mitosis?",
            "Give the bounding box of the nucleus.",
        ),
    },
    "retina": {
        SWAPPED: (
            "Is this the left eye?",
            "Is it a right or a left eye?",
            "Is this OD?",
            "OS or OD?",
            "Is there a haemorrhage left of the disc?",
            "Is the lesion at the right edge?",
            "Is the Left eye shown?",
        ),
        KEPT: (
            "Is there diabetic retinopathy?",
            "Is the lesion nasal to the disc?",
            "Is the haemorrhage temporal?",
            "Is the superior arcade affected?",
            "What is the cup to disc ratio?",
            "Are drusen visible?",
            "Is the macula swollen?",
            "Is the inferior rim thin?",
            "Which eye is shown?",
            "Are there cotton wool spots?",
            "Is the disc pale?",
        ),
        GATED: (
            "Are both eyes affected?",
            "At what o'clock is the tear?",
            "Is the fellow eye normal?",
            "Is this RE or LE?",
            "What does the label say?",
            "Is the picture mirrored?",
            "Is that right?",
            "How many clock hours are involved?",
        ),
    },
    "remote-sensing": {
        KEPT: (
            "Is there an airport?",
            "How many planes are parked?",
            "Is this farmland or forest?",
            "Is a river visible?",
            "Are there ships in the harbour?",
            "Is the area residential?",
            "What class is this scene?",
            "Is there a stadium?",
            "How many storage tanks are there?",
            "Is the ground snow-covered?",
            "Is there a bridge over the water?",
            "Are there solar panels?",
            "Is the road crowded?",
            "What crops grow here?",
        ),
        GATED: (
            "Is the lake north of the town?",
            "What lies in the north-east?",
            "Is the river to the west?",
            "Is the harbour in the top left corner?",
            "Does the road run horizontally?",
            "Which way do the shadows fall?",
            "Is the runway on the right?",
            "Is the forest below the road?",
            "What is in the southwestern part?",
            "Is the farm in the NE?",
            "Is the coast on the E side?",
            "At what heading does the ship sail?",
        ),
    },
    "food": {
        SWAPPED: (
            "Is the fork on the left?",
            "What is on the right side of the plate?",
            "Is the leftmost dish a soup?",
            "Which glass is to the right of the bowl?",
            "Is the Left cup full?",
        ),
        KEPT: (
            "What dish is this?",
            "Is it vegetarian?",
            "How many plates are there?",
            "Is there rice?",
            "Is the meat well done?",
            "Does it contain nuts?",
            "What drink is served?",
            "Is the bread sliced?",
            "What cuisine is it?",
            "Is the soup above the plate?",
            "Is the salad fresh?",
            "Is it a dessert?",
        ),
        GATED: (
            "What does the label say?",
            "Is anything left?",
            "Are these leftovers?",
            "Which brand is it?",
            "What is written on the menu?",
            "Is this the right temperature?",
            "What time is it on the clock?",
            "Is the eater left-handed?",
            "What is the price?",
            "How many pieces are left over?",
        ),
    },
}


HARD: dict[str, dict[str, tuple[str, ...]]] = {
    "brain-mri": {
        GATED: (
            "Is there any tumor left?", "How many are left in the brain?",
            "Is there tumour left after resection?", "Nothing left?", "No lesion left.",
            "Has the patient left hospital?", "Has he left?", "How much oedema is left?",
            "Was he left with a deficit?", "The operation left a cavity", "What was left?",
            "Is there enough brain left to resect?", "Any left?", "Is that right, doctor?", "This is T2, right?",
            "Am I right?", "That's right.", "Is it the right diagnosis?", "Is the nondominant hemisphere affected?",
            "Is it the non-dominant side?", "On the side of language dominance?", "Is the patient sinistral?",
            "Does it explain the dysphasia?", "Is there hemineglect?", "Gerstmann's syndrome?", "RMCA infarct",
            "LICA", "LH", "Rt. frontal", "on the R", "l frontal", "lobus dexter", "Is the aorta seen?",
            "a right-to-left shunt", "left atrial myxoma", "parasagittally left?", "Is it the left profile?",
        ),
        SWAPPED: (
            "Is the stroke left or right?", "The patient has left frontal oedema.",
            "Is the lesion left?", "Is it left?",
            "The mass is on the left, with oedema.", "Is there any lesion in the left lobe?",
            "Is there a mass on the left?", "No lesion on the right.", "Left.", "Is there any left frontal lesion?",
            "How much oedema is on the left?", "left-hand side", "Left, right, or both?",
            "There is no lesion in the right lobe.", "What lies in the left thalamus?",
            "Which lesion is on the left?",
        ),
        KEPT: (
            "metastasis of lung cancer", "Is there any residual tumour?", "Is the sinus thrombosed?",
            "Ventricular size?",
        ),
    },
    "chest-xray": {
        GATED: (
            "RLL", "LLL", "RIJ", "hemi-thorax", "dextroscoliosis", "Sinistral", "Which pulmonary artery is wide?",
            "retrocardiac", "cardiophrenic", "myocardium", "hemopericardium", "AICD", "ICDs", "paratracheal",
            "mainstem", "paramediastinal", "hepatomegaly", "splenomegaly", "RUL", "LUL", "RML", "LIJ", "RMB", "LSC",
            "levoscoliosis", "hemi thorax", "dexter", "LVH", "RAO", "RPA", "RUZ opacity", "r lung", "l. base",
            "Which costophrenic angle?", "Which of the lungs is clear?", "which rib", "main bronchus",
            "perihilar haze", "hilus", "nasogastric tube", "NGT", "asplenia", "cholecystectomy clips", "gallbladder",
            "Chilaiditi", "Kartagener", "scimitar sign", "lobectomy", "CABG", "mitral", "LVAD", "IABP", "leads",
            "pacer", "loop recorder", "CTR", "silhouette", "cavoatrial", "IVC", "brachiocephalic", "great vessels",
            "AP window", "aneurysm", "subdiaphragmatic", "hemi-diaphragm", "minor fissural", "pneumomediastinum",
            "tracheostomy", "endotracheal", "left-ward", "ipsilateral", "laterally", "epigastric",
        ),
        KEPT: (
            "costophrenic angles blunted?", "Is there a hemothorax?", "haemothorax", "air bronchograms",
            "bronchiectasis", "cavitation", "central line", "rib fracture, displaced", "Kerley B lines", "scoliosis",
            "a port", "Is it bilateral?", "Which view is it?", "emphysema", "pleural plaques", "septal lines",
            "Is there free air?", "sternal wires",
        ),
    },
    "histology": {
        GATED: (
            "up", "upwards", "downwards", "upward", "sideways", "the upside", "beneath", "Where is the tumour?",
            "top-left", "Which part of the picture is pink?", "Which way does it grow?", "the other side",
            "in the second row", "diagonal", "What does the label say?", "Is there a scale bar?", "RHS", "Rt",
            "Is the image rotated?", "counter-clockwise", "On which side is the gland?", "Which half is necrotic?",
            "Which edge is inked?", "uppermost", "westwards",
        ),
        KEPT: (
            "columnar cells", "high power", "a low grade tumour", "under the microscope", "the deep margin",
            "luminal surface",
        ),
    },
    "retina": {
        GATED: (
            "O.D.", "oculus dexter", "R eye", "RT", "o.s.", "O.S", "O D", "oculus sinister", "L eye", "LT", "r eye",
            "l", "Rt eye", "lt.", "oculo sinistro", "oculi dextri", "O.U.", "both", "le", "re.", "od", "Os", "rgt",
            "lft", "dextra", "RE.", "bilateral", "the opposite eye", "Is any haemorrhage left?",
            "Is it right, doctor?", "Has he left?", "RHS", "Was the laser scar left behind?",
            "Is it the right exposure?", "a left-handed patient", "sinistra", "laevus, levo",
        ),
        SWAPPED: (
            "OD", "OS.", "right eye", "The LEFT eye", "Is it OD or OS?", "Is the haemorrhage on the left?",
        ),
        KEPT: (
            "ocular hypertension", "intraocular gas", "nasal", "the temporal arcade", "Is there a tear?",
            "re-treated scars",
        ),
    },
    "remote-sensing": {
        GATED: (
            "upwards", "downwards", "beneath", "NNE", "WSW", "ne", "Where is the ship?", "Which way does it sail?",
            "L", "Which part is wooded?", "on the far side", "in the third row", "sideways", "Rt",
            "Is the image tilted?",
        ),
        KEPT: (
            "new houses", "the riverside", "Is the sea calm?", "a two-lane road",
        ),
    },
    "food": {
        GATED: (
            "Is there any soup left?", "How much rice is left?", "Has the guest left?", "Is it right, chef?",
            "right sauce", "no bread left", "left to rest", "This is rice, right?", "R", "lt",
            "Is it the right order?", "Who left?",
        ),
        SWAPPED: (
            "Is there any soup on the left?", "Is the soup left or right?", "Left.", "to the right of the rice",
        ),
        KEPT: (
            "bright red", "soup", "Is it spicy?",
        ),
    },
}  # fmt: skip
"""What fresh readers found to be treated wrongly, as a question and as an answer."""


@pytest.mark.parametrize("name", HARD)
def test_hard_words_are_judged_in_question_and_answer(name: str) -> None:
    for outcome, texts in HARD[name].items():
        for text in texts:
            for rule in table_of(name).rules:
                asked = rule.judge(text)
                assert asked.outcome == outcome, f"{name}, {rule.kind.name}: {text} {asked}"
                if "profile" not in text and "sagittal" not in text:  # gates of questions only
                    assert rule.judge("What is seen?", text).outcome == outcome, text


@pytest.mark.parametrize("name", CASES)
def test_what_each_table_does_to_real_questions(name: str) -> None:
    assert sum(map(len, CASES[name].values())) >= 20
    for outcome, questions in CASES[name].items():
        for question in questions:
            for rule in table_of(name).rules:
                found = rule.judge(question)
                assert found.outcome == outcome, f"{name}, {rule.kind.name}: {question} {found}"
                assert rule.swap_text(found.question) == question or outcome == GATED
                assert (found.question != question) == (outcome == SWAPPED)


def test_every_built_in_table_is_tried() -> None:
    assert built_in() == sorted(CASES) and not any(table_of(name).forced for name in built_in())


def test_answers_are_swapped_and_gated_too() -> None:
    brain, chest = table_of("brain-mri").rules[0], table_of("chest-xray").rules[0]
    found = brain.judge("Where is it?", "In the left thalamus, bright.")
    assert (found.outcome, found.answer) == (SWAPPED, "In the right thalamus, bright.")
    assert brain.judge("Where is it?", "In the posterior fossa").outcome == GATED
    assert brain.judge("Which plane?", "sagittal").outcome == KEPT  # a gate of questions only
    assert chest.judge("What is there?", "A large heart").outcome == GATED


@pytest.mark.parametrize("name", ["brain-mri", "retina", "food"])
def test_an_answer_and_its_mirrored_one_are_gated_alike(name: str) -> None:
    """Else one side alone would be constrained, which teaches a side."""
    (rule,) = table_of(name).rules
    answers = (
        *(
            "Left.",
            "It is left.",
            "The answer is left.",
            "It lies on the left. The answer is left.",
            "<answer>left</answer>",
        ),
        *(
            "There is one on the left.",
            "left side",
            "The left one",
            "He has left-sided signs.",
            "The patient has left signs.",
        ),
        *(
            "No oedema left.",
            "There is a mass left.",
            "left after that",
            "left with a rim",
            "is left with a rim",
            "left a bit",
        ),
        *(
            "left of the centre",
            "Left, as it seems",
            "leftmost",
            "It is the left, not the right.",
            "on the left, I am sure",
        ),
    )
    for answer in answers:
        found = rule.judge("Which side?", answer)
        assert rule.judge("Which side?", rule.swap_text(answer)).outcome == found.outcome, answer
    assert all(rule.judge("Which side?", answer).outcome == SWAPPED for answer in answers[:10])


def test_parts_of_words_are_never_swapped() -> None:
    rule = table_of("brain-mri").rules[0]
    plain = "bright, copyright, upright, leftover, Wright, cleft, right5"
    assert rule.swap_text(plain) == plain
    assert rule.swap_text("left_lung, right/left, (Right) LEFT's") == "right_lung, left/right, (Left) RIGHT's"


GOOD = """
title = "T"
asks = ["side"]
[[transform]]
kind = "mirror"
swap = [["left", "right"]]
[[transform.gate]]
words = ["heart"]
why = "it lies on the left"
"""
BROKEN = [
    ("kind = ", "knid = ", ("[[transform]] 1", "'knid'", "'kind'")),
    ('kind = "mirror"', 'kind = "miror"', ("[[transform]] 1, kind", "'mirror'")),
    ('kind = "mirror"', "kind = 3", ("[[transform]] 1, kind", "rotate-90")),
    ("title = ", "titel = ", ("the top", "'title'")),
    ('title = "T"', "title = 3", ('title = "Brain MRI"',)),
    ('asks = ["side"]', "", ("asks", "compass")),
    ('asks = ["side"]', 'asks = ["sides"]', ("asks", "'side'")),
    ('[["left", "right"]]', '[["left"]]', ("[[transform]] 1, swap", "two different words")),
    ('[["left", "right"]]', '[["left", "Left"]]', ("[[transform]] 1, swap",)),
    ('[["left", "right"]]', '[["left", "right"], ["left", "lower"]]', ("'left'", "two pairs")),
    ('[["left", "right"]]', '[["left", "lower"]]', ("'left'", '["left", "right"]')),
    ('[["left", "right"]]', "[]", ("asks for side".replace("asks", "ask"), "'left'", "force = true", "swap = [[")),
    ('[["left", "right"]]', '"left"', ("no list of pairs",)),
    ('["heart"]', '["hea(rt"]', ("[[transform]] 1, [[transform.gate]] 1, words", "regular expression")),
    ('["heart"]', '["x*"]', ("[[transform.gate]] 1, words", "empty text")),
    ('["heart"]', "[]", ("names no words",)),
    ('why = "it', 'in = "all"\nwhy = "it', ("[[transform.gate]] 1, in", "question, answer, both")),
    ('why = "it lies on the left"', "", ("[[transform.gate]] 1, why",)),
    ("[[transform]]", "[transform]", ("two brackets",)),
    ("swap = ", "force = 1\nswap = ", ("[[transform]] 1, force", "force = true")),
    (
        "[[transform.gate]]",
        '[[transform]]\nkind = "mirror"\nswap = [["left", "right"]]\n[[transform.gate]]',
        ("twice",),
    ),
    ('title = "T"', 'title = "T', ("t.toml:2", "no TOML")),
]


@pytest.mark.parametrize(("old", "new", "said"), BROKEN)
def test_an_error_names_the_place_and_what_to_write(old: str, new: str, said: tuple[str, ...]) -> None:
    assert old in GOOD and parse(GOOD.encode(), "t.toml").name == "t"
    with pytest.raises(BadInput) as error:
        parse(GOOD.replace(old, new, 1).encode(), "t.toml")
    assert "t.toml" in error.value.where and error.value.hint
    for part in said:
        assert part in str(error.value)


def test_strange_files_are_refused() -> None:
    for data in (b"\xff", b"x = " + b"[" * 30000, b"#" * (MOST_BYTES + 1), b"", b'title = "T"\nasks = []\n'):
        with pytest.raises(BadInput):
            parse(data, "t.toml")
    for name in ("brian", "no/such.toml", "none.toml"):
        with pytest.raises(BadInput):
            table_of(name)


@pytest.mark.parametrize("kind", ["rotate-90", "rotate-180", "flip-vertical", "mirror"])
def test_a_transform_that_does_not_preserve_labels_is_refused_and_can_be_forced(kind: str) -> None:
    text = f'title = "T"\nasks = ["side", "height"]\n[[transform]]\nkind = "{kind}"\n'
    with pytest.raises(BadInput, match="force = true"):
        parse(text.encode(), "t.toml")
    forced = parse(f"{text}force = true\n".encode(), "t.toml")
    assert forced.forced and forced.rules[0].judge("Is the upper left dark?").outcome == KEPT


def test_what_a_table_is_silent_of_is_left_out() -> None:
    silent = parse(b'title = "T"\nasks = []\n[[transform]]\nkind = "mirror"\n', "t.toml").rules[0]
    assert silent.judge("Is it on the left?").outcome == silent.judge("Is it", "eastern").outcome == GATED
    assert silent.judge("Is it bright at the top?").outcome == KEPT
    text = 'title = "T"\nasks = []\n[[gate]]\nwords = ["red"]\nwhy = "x"\n[[transform]]\nkind = "identity"\n'
    both = parse(f'{text}[[transform]]\nkind = "mirror"\n'.encode(), "t.toml")
    assert [rule.judge("Is it Red?").outcome for rule in both.rules] == [GATED, GATED]
    assert [rule.judge("Is it left?").outcome for rule in both.rules] == [KEPT, GATED]
