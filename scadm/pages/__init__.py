"""HTML pages that hold their own styles and pictures, readable anywhere."""

import base64
import io

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from PIL import Image


def pages(package: str) -> Environment:
    """The templates of a package, which may extend `base.html.j2`; the filter `data_uri` puts a picture in."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("scadm.pages", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment


def data_uri(image: Image.Image) -> str:
    """A picture as an address that holds it, PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
