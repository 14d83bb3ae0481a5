"""Which of MediaPipe's mesh points lie on edges that pictures show: lips, nose, brows, the rims of eyes and mouth.

The others lie on smooth skin, where the network places them by what it knows of faces.
"""

from __future__ import annotations

#: Rims in order: the subject's right eye, left eye, inner lips.
EYES_AND_MOUTH: tuple[tuple[int, ...], ...] = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249),
    (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95),
)
LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
BRIDGE = (4, 5, 195, 197, 6)
NOSE_BASE = (1, 2, 97, 98, 64, 48, 115, 220, 45, 326, 327, 294, 278, 344, 440, 275)
BROWS = (70, 63, 105, 66, 107, 55, 65, 52, 53, 46, 300, 293, 334, 296, 336, 285, 295, 282, 283, 276)
#: All of them, each once.
FEATURES = tuple(dict.fromkeys((*LIPS, *BRIDGE, *NOSE_BASE, *BROWS, *(i for rim in EYES_AND_MOUTH for i in rim))))
