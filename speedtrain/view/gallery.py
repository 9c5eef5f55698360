"""Small pictures side by side, each with a caption."""

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from speedtrain.view.html import Html, picture, tag

GALLERY_STYLE = """
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(max(6.2rem, 15%), 1fr)); gap: 1rem }
.gallery figure { margin: 0 }
.gallery img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 4px;
  image-rendering: pixelated }
figcaption { font-size: .8rem; line-height: 1.3; margin-top: .3rem }
figcaption span { color: var(--faint) }
"""


def gallery(pictures: Iterable[tuple[np.ndarray, str, Iterable[object]]]) -> Html:
    """A grid of figures.

    Args:
        pictures: image uint8 [H, W, 3], its description for those who do not see it, and the parts of its caption.
    """
    figures = []
    for image, description, caption in pictures:
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        figures.append(tag("figure", picture(png.getvalue(), description), tag("figcaption", *caption)))
    return tag("div", *figures, class_="gallery")
