"""The page that shows suspect labels."""

import numpy as np

from speedtrain.data import Images
from speedtrain.view.gallery import GALLERY_STYLE, gallery
from speedtrain.view.html import page, percent, section, table, tag

MOST_SHOWN = 100


def suspects_page(images: Images, places: np.ndarray, probabilities: np.ndarray) -> str:
    """The most suspect labels with their images, and how many each class has.

    Args:
        images: all of them.
        places: of the suspect ones, the most suspect first.
        probabilities: float32 [N, K], by networks that were not trained on the image.
    """
    classes, labels = images.classes, images.labels
    judged = np.isfinite(probabilities).all(axis=1)
    title = f"{len(places):,} of {judged.sum():,} labels look wrong, {images.name}"
    shown = places[:MOST_SHOWN]

    def captioned(place: int) -> tuple[np.ndarray, str, tuple[object, ...]]:
        given, most = classes[labels[place]], int(probabilities[place].argmax())
        name = f"image {place}" if images.files is None else images.files[place]
        share = tag("span", f"({percent(float(probabilities[place, most]))})")
        words = f"{name}: labelled {given}, looks like {classes[most]}"
        return images.images[place], words, (f"{given} → {classes[most]} ", share, tag("span", f" {name}"))

    rows = []
    for number, name in enumerate(classes):
        of_class = judged & (labels == number)
        suspect = int((labels[places] == number).sum())
        rows.append((name, int(of_class.sum()), suspect, percent(suspect / max(1, of_class.sum()))))
    explanation = (
        "Given label → the most probable class, with its probability by a network that was not trained on the image. "
        "A label that looks wrong may be right: look before you change it."
    )
    more = f" The first {len(shown)} are shown; suspects.csv has all." if len(places) > len(shown) else ""
    return page(
        title,
        tag("header", tag("h1", title), tag("p", explanation + more)),
        section("The most suspect labels", gallery(map(captioned, shown.tolist()))),
        section("Of each class", table("Suspect labels", ("class", "judged", "suspect", "share"), rows)),
        style=GALLERY_STYLE,
    )
