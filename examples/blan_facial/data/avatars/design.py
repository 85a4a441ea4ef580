"""What a face looks like, drawn at random, and the labels that follow from it.

The attributes are those of CelebA that a drawing can show as a fact. A label is read off the face, never drawn beside
it, so that a face and its labels cannot disagree.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

ATTRIBUTES: Final = (
    "Arched_Eyebrows",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Pale_Skin",
    "Rosy_Cheeks",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Lipstick",
)

# Hair styles that leave brows and eyes free. STRAIGHT and WAVY ones show it; the SHORT ones are too short to be either.
STRAIGHT: Final = ("BOB", "STRAIGHT_1", "MIA_WALLACE", "STRAIGHT_STRAND", "LONG_NOT_TOO_LONG")
WAVY: Final = ("CURLY", "FRO", "SHORT_CURLY", "SHORT_WAVED")
SHORT: Final = ("SHORT_FLAT", "BUN", "POMPADOUR", "BUZZCUT")
LONG: Final = (*STRAIGHT, "CURLY", "FRO")
FRINGED: Final = ("MIA_WALLACE", "STRAIGHT_STRAND")  # never without bangs

HAIR_COLORS: Final = {
    "Black_Hair": ("#2C1B18", "#1D1D24"),
    "Blond_Hair": ("#D6B370", "#EBCB6B"),
    "Brown_Hair": ("#724133", "#8A5734"),
    "Gray_Hair": ("#A6A6AD", "#C6C6CC"),
}
DYED: Final = ("#C93305", "#F59797")
PALE_SKINS: Final = ("#FFE6D6", "#FCEBE4")
OTHER_SKINS: Final = ("#EDB98A", "#D99A66", "#D08B5B", "#AE5D29", "#8D5B3E")
LIPSTICKS: Final = ("#D1123F", "#A3134B", "#E8337A")
EARRINGS: Final = ("#E8C33A", "#F4F4F4", "#2AB7CA")

MOUTHS: Final = {  # (smiling, open)
    (True, True): ("SMILE", "BIG_SMILE"),
    (True, False): ("TWINKLE",),
    (False, True): ("CONCERNED", "DISBELIEF"),
    (False, False): ("SERIOUS", "SAD"),
}
EYES: Final = ("DEFAULT", "SURPRISED", "SQUINT", "EYE_ROLL")
NOSES: Final = ("DEFAULT", "WIDE")
BEARDS: Final = ("full", "goatee")
MUSTACHES: Final = ("MOUSTACHE_FANCY", "MOUSTACHE_MAGNUM", "EINSTEIN_MOUSTACHE")
GLASSES: Final = ("PRESCRIPTION_1", "PRESCRIPTION_2", "ROUND")
CLOTHES: Final = ("SHIRT_CREW_NECK", "SHIRT_V_NECK", "COLLAR_SWEATER")


@dataclass(frozen=True)
class Face:
    """One face: styles by the names of `parts`, colours as #RRGGBB, None for a piece that is not there.

    Attributes:
        rotation: Of the head, in degrees.
        scale: Of the head.
        shift: Of the head, right and down, in units of the canvas.
        turn: Of the features within the head, right and down, as of a head that turns.
    """

    skin: str
    hair: str | None
    hair_color: str
    bangs: bool
    beard: str | None
    mustache: str | None
    eyes: str
    narrow_eyes: bool
    bags_under_eyes: bool
    arched_eyebrows: bool
    bushy_eyebrows: bool
    nose: str
    big_nose: bool
    mouth: str
    lipstick: str | None
    rosy_cheeks: bool
    glasses: str | None
    earrings: str | None
    clothing: str
    clothing_color: str
    background: str
    rotation: float
    scale: float
    shift: tuple[float, float]
    turn: tuple[float, float]

    def labels(self) -> np.ndarray:
        """1 where the face has the attribute, 0 where not: uint8 in the order of `ATTRIBUTES`."""
        smiling, mouth_open = next(kind for kind, styles in MOUTHS.items() if self.mouth in styles)
        has = {
            "Arched_Eyebrows": self.arched_eyebrows,
            "Bags_Under_Eyes": self.bags_under_eyes,
            "Bald": self.hair is None,
            "Bangs": self.bangs,
            "Big_Nose": self.big_nose,
            "Bushy_Eyebrows": self.bushy_eyebrows,
            "Eyeglasses": self.glasses is not None,
            "Goatee": self.beard == "goatee",
            "Mouth_Slightly_Open": mouth_open,
            "Mustache": self.mustache is not None,
            "Narrow_Eyes": self.narrow_eyes,
            "No_Beard": self.beard is None,
            "Pale_Skin": self.skin in PALE_SKINS,
            "Rosy_Cheeks": self.rosy_cheeks,
            "Smiling": smiling,
            "Straight_Hair": self.hair in STRAIGHT,
            "Wavy_Hair": self.hair in WAVY,
            "Wearing_Earrings": self.earrings is not None,
            "Wearing_Lipstick": self.lipstick is not None,
        }
        for name in ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"):
            has[name] = self.hair is not None and self.hair_color in HAIR_COLORS[name]
        return np.array([has[name] for name in ATTRIBUTES], dtype=np.uint8)


def draw_face(rng: np.random.Generator) -> Face:
    """A random face."""

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    def choose(options: tuple[str, ...]) -> str:
        return options[rng.integers(len(options))]

    def offset(most: float) -> float:
        return float(rng.uniform(-most, most))

    def color(saturation: float) -> str:
        red, green, blue = (255 * (1 - saturation * rng.random(3))).astype(int)
        return f"#{red:02X}{green:02X}{blue:02X}"

    hair = None
    if not chance(0.18):
        length = rng.random()
        hair = choose(STRAIGHT if length < 0.42 else WAVY if length < 0.84 else SHORT)
    hair_colors = DYED if chance(0.05) else HAIR_COLORS[choose(tuple(HAIR_COLORS))]
    bearded = chance(0.48)
    made_up = chance(0.4)  # lipstick, rosy cheeks and earrings come together a little more often than by chance
    return Face(
        skin=choose(PALE_SKINS if chance(0.4) else OTHER_SKINS),
        hair=hair,
        hair_color=choose(hair_colors),
        bangs=hair is not None and (hair in FRINGED or chance(0.35)),
        beard=choose(BEARDS) if bearded else None,
        mustache=choose(MUSTACHES) if chance(0.42 if bearded else 0.28) else None,
        eyes=choose(EYES),
        narrow_eyes=chance(0.4),
        bags_under_eyes=chance(0.4),
        arched_eyebrows=chance(0.45),
        bushy_eyebrows=chance(0.45),
        nose=choose(NOSES),
        big_nose=chance(0.42),
        mouth=choose(MOUTHS[chance(0.5), chance(0.5)]),
        lipstick=choose(LIPSTICKS) if chance(0.55 if made_up else 0.35) else None,
        rosy_cheeks=chance(0.45 if made_up else 0.35),
        glasses=choose(GLASSES) if chance(0.4) else None,
        earrings=choose(EARRINGS) if chance(0.5 if made_up else 0.32) else None,
        clothing=choose(CLOTHES),
        clothing_color=color(0.9),
        background=color(0.6),
        rotation=offset(15),
        scale=1 + offset(0.12),
        shift=(offset(12), offset(9)),
        turn=(offset(8), offset(4)),
    )
