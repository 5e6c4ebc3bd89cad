"""The sheets of which a picture of a face is stacked."""

from dataclasses import dataclass

from scadm.data.synthetic.curves import Frame, Outline


@dataclass(frozen=True)
class Detail:
    """Something drawn on a layer and clipped to it: it changes colours, never labels.

    `ink` names a colour of `paint.INKS`, made from the layer's own colour; `opacity` is in [0, 1]. A soft
    detail fades out from the middle of its bounding box, a hard one fills its outlines.
    """

    outlines: tuple[Outline, ...]
    ink: str
    opacity: float = 1.0
    soft: bool = False


@dataclass(frozen=True)
class Layer:
    """One sheet of the picture: `outlines` (their union) filled with the ink of the class `part`.

    A texture lies in the coordinates of `frame`, and along the strands where `strands` is set.
    """

    part: str
    outlines: tuple[Outline, ...]
    frame: Frame
    details: tuple[Detail, ...] = ()
    ink: str = "own"
    strands: bool = False
