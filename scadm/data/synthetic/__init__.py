"""Synthetic faces in all 19 classes, with exact masks and with the factors that made them known.

A twin of CelebAMask-HQ that needs no download: `write_archive` lays the faces out as the official archive
does, and `write_factors` keeps what a photograph cannot tell, such as the true colour of each part. Faces are
sampled (`factors`), laid out as curves (`geometry`) and painted (`paint`) apart from each other.
"""

from scadm.data.synthetic.archive import write_archive, write_factors
from scadm.data.synthetic.face import Face, draw_face
from scadm.data.synthetic.factors import Factors, sample_factors

__all__ = ["Face", "Factors", "draw_face", "sample_factors", "write_archive", "write_factors"]
