"""Make headrecon/data/anthropometry.json: published head and face measures of adults, with their correlations.

    python scripts/make_anthropometry.py ANSUR_II_MALE_Public.csv ANSUR_II_FEMALE_Public.csv

The two files are the public release of the 2012 US Army survey (approved for public release, distribution unlimited).
Means, deviations and correlations of ANSUR II are computed here from its individual records; only these statistics
are shipped. Figures of the other studies stand below with their sources and with a note on how far they were checked.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np

OUTPUT = Path(__file__).parent.parent / "headrecon" / "data" / "anthropometry.json"

DEFINITIONS = {
    "head_breadth": "greatest horizontal breadth of the head above the ears (eu-eu), spreading caliper",
    "head_length": "glabella to opisthocranion (g-op), spreading caliper",
    "head_circumference": "greatest circumference above the brow ridges and over the back of the head, tape over hair",
    "bizygomatic_breadth": "greatest breadth of the face across the zygomatic arches (zy-zy); face width",
    "bigonial_breadth": "breadth across the angles of the jaw (go-go)",
    "menton_sellion_length": "chin underside to the deepest point of the nasal root; face length",
    "subnasale_sellion_length": "base of the nose to the deepest point of the nasal root; nose length",
    "nose_breadth": "greatest breadth of the nose across the wings (al-al)",
    "nose_protrusion": "subnasale to the tip of the nose (sn-prn)",
    "nasal_root_breadth": "breadth of the nose bridge at sellion level, where the nose pads of glasses sit",
    "interpupillary_distance": "distance between the pupil centres, both eyes on a far target, pupillometer",
    "lip_length": "corner to corner of the closed mouth (ch-ch)",
    "minimum_frontal_breadth": "least breadth of the forehead between the temporal crests above the brows (ft-ft)",
    "maximum_frontal_breadth": "greatest breadth of the forehead between the zygofrontal points",
    "bitragion_chin_arc": "tragion to tragion over the front of the chin, tape",
    "bitragion_submandibular_arc": "tragion to tragion under the jaw at the throat, tape",
    "bitragion_coronal_arc": "tragion to tragion over the top of the head, tape",
    "bitragion_frontal_arc": "tragion to tragion across the forehead above the brows, tape",
    "bitragion_subnasale_arc": "tragion to tragion across the base of the nose, tape",
    "tragion_top_of_head": "vertical distance from tragion to the top of the head, Frankfurt plane level",
    "ear_length": "highest to lowest point of the ear along its axis, right ear",
    "ear_breadth": "greatest breadth of the ear perpendicular to its length, right ear",
    "ear_protrusion": "from the head behind the ear to the ear's most lateral point, right ear",
    "neck_circumference": "just below the larynx, perpendicular to the neck's axis, tape",
    "iris_diameter_horizontal": "white to white, horizontal visible iris diameter",
}

#: Column of the ANSUR II files, and how many millimetres one unit of it is (interpupillary breadth is in tenths).
ANSUR_COLUMNS = {
    "head_breadth": ("headbreadth", 1.0),
    "head_length": ("headlength", 1.0),
    "head_circumference": ("headcircumference", 1.0),
    "bizygomatic_breadth": ("bizygomaticbreadth", 1.0),
    "menton_sellion_length": ("mentonsellionlength", 1.0),
    "interpupillary_distance": ("interpupillarybreadth", 0.1),
    "bitragion_chin_arc": ("bitragionchinarc", 1.0),
    "bitragion_submandibular_arc": ("bitragionsubmandibulararc", 1.0),
    "tragion_top_of_head": ("tragiontopofhead", 1.0),
    "ear_length": ("earlength", 1.0),
    "ear_breadth": ("earbreadth", 1.0),
    "ear_protrusion": ("earprotrusion", 1.0),
    "neck_circumference": ("neckcircumference", 1.0),
}

#: (mean, sd) in millimetres of men and women.
NIOSH = {
    "bigonial_breadth": ((120.4, 10.4), (110.1, 8.9)),
    "bitragion_chin_arc": ((331.2, 15.5), (303.9, 15.3)),
    "bitragion_coronal_arc": ((350.7, 13.9), (339.3, 14.2)),
    "bitragion_frontal_arc": ((304.3, 13.0), (287.4, 12.0)),
    "bitragion_subnasale_arc": ((294.8, 13.2), (277.5, 12.7)),
    "bizygomatic_breadth": ((143.5, 6.9), (135.1, 6.5)),
    "head_breadth": ((153.0, 6.0), (146.8, 5.6)),
    "head_circumference": ((575.7, 17.1), (554.9, 18.2)),
    "head_length": ((197.3, 7.4), (187.5, 7.2)),
    "interpupillary_distance": ((64.5, 3.6), (61.9, 3.5)),
    "lip_length": ((51.1, 4.2), (48.0, 4.0)),
    "maximum_frontal_breadth": ((112.3, 5.6), (108.6, 5.0)),
    "menton_sellion_length": ((122.7, 7.0), (113.4, 6.1)),
    "minimum_frontal_breadth": ((105.5, 5.7), (102.9, 5.4)),
    "nasal_root_breadth": ((16.6, 2.3), (16.3, 2.0)),
    "nose_breadth": ((36.6, 4.1), (33.2, 3.9)),
    "nose_protrusion": ((21.1, 2.7), (19.8, 2.7)),
    "subnasale_sellion_length": ((52.0, 4.1), (48.2, 3.8)),
}
NIOSH_COUNTS = (2543, 1454)
RUFER = {"iris_diameter_horizontal": ((11.77, 0.37), (11.64, 0.47))}
RUFER_COUNTS = (242, 148)

STUDIES = {
    "ansur2": {
        "citation": "Gordon CC, Blackwell CL, Bradtmiller B, et al. (2014) 2012 Anthropometric Survey of U.S. Army "
        "Personnel: Methods and Summary Statistics. Technical Report NATICK/TR-15/007.",
        "table": "computed from the individual records of the public data files by scripts/make_anthropometry.py",
        "population": "4,082 men and 1,986 women of the US Army, aged 17 to 58",
        "licence": "approved for public release, distribution unlimited (work of the US government)",
        "confidence": "verified: computed from the records",
    },
    "niosh2003": {
        "citation": "Zhuang Z, Bradtmiller B (2005) Head-and-face anthropometric survey of U.S. respirator users. "
        "J Occup Environ Hyg 2(11):567-576. Same survey: Zhuang Z, Landsittel D, Benson S, Roberge R, Shaffer R (2010) "
        "Facial anthropometric differences among gender, ethnicity, and age groups. Ann Occup Hyg 54(4):391-402.",
        "table": "summary statistics weighted to the US workforce",
        "population": "3,997 US civilian workers aged 18 to 66, four ethnic groups, weighted",
        "licence": "figures from a publication of US government authors",
        "confidence": "memory: given from memory of the tables, not re-read; the measures shared with ansur2 agree "
        "with it within 2.5 mm (arcs, circumferences: 10 mm), which supports the others",
    },
    "rufer2005": {
        "citation": "Rüfer F, Schröder A, Erb C (2005) White-to-white corneal diameter: normal values in healthy "
        "humans obtained with the Orbscan II topography system. Cornea 24(3):259-261.",
        "table": "abstract",
        "population": "390 healthy white people aged 10 to 80 (370 right, 373 left eyes); no significant difference "
        "between sexes (P = 0.071) or eyes; both sexes together 11.71 ± 0.42 mm",
        "licence": "figures from a journal publication",
        "confidence": "verified: read in the abstract",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("male", type=Path)
    parser.add_argument("female", type=Path)
    arguments = parser.parse_args()
    records = {"male": read_records(arguments.male), "female": read_records(arguments.female)}
    table = {
        "what": "Published head and face measures of adults; see `studies` for sources and how far each was checked.",
        "unit": "mm",
        "made_by": "scripts/make_anthropometry.py",
        "studies": STUDIES,
        "measures": measures(records),
        "correlations": correlations(records),
        "adults": mixture(records),
    }
    OUTPUT.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_records(path: Path) -> np.ndarray:
    """One row per person, one column per measure of ANSUR_COLUMNS, in mm."""
    with path.open(encoding="latin-1", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return np.array([[float(row[column]) * unit for column, unit in ANSUR_COLUMNS.values()] for row in rows])


def measures(records: dict[str, np.ndarray]) -> dict[str, dict]:
    values: dict[str, list[dict]] = {name: [] for name in DEFINITIONS}
    for sex, data in records.items():
        for i, name in enumerate(ANSUR_COLUMNS):
            values[name].append(entry("ansur2", sex, len(data), data[:, i].mean(), data[:, i].std(ddof=1)))
    for study, figures, counts in (("niosh2003", NIOSH, NIOSH_COUNTS), ("rufer2005", RUFER, RUFER_COUNTS)):
        for name, by_sex in figures.items():
            for sex, n, (mean, sd) in zip(("male", "female"), counts, by_sex, strict=True):
                values[name].append(entry(study, sex, n, mean, sd))
    return {name: {"definition": DEFINITIONS[name], "values": values[name]} for name in DEFINITIONS}


def entry(study: str, sex: str, n: int, mean: float, sd: float) -> dict:
    confidence = "verified" if STUDIES[study]["confidence"].startswith("verified") else "memory"
    return {
        "study": study,
        "sex": sex,
        "n": n,
        "mean": round(float(mean), 2),
        "sd": round(float(sd), 2),
        "confidence": confidence,
    }


def correlations(records: dict[str, np.ndarray]) -> dict[str, dict]:
    return {
        sex: {
            "study": "ansur2",
            "measures": list(ANSUR_COLUMNS),
            "matrix": np.corrcoef(data.T).round(4).tolist(),
        }
        for sex, data in records.items()
    }


def mixture(records: dict[str, np.ndarray]) -> dict:
    """Half men, half women: what the identity prior is held against. Covariance within plus between the sexes."""
    men, women = records["male"], records["female"]
    gap = (men.mean(0) - women.mean(0)) / 2
    covariance = (np.cov(men.T) + np.cov(women.T)) / 2 + np.outer(gap, gap)
    sd = np.sqrt(np.diag(covariance))
    out: dict[str, dict] = {}
    for i, name in enumerate(ANSUR_COLUMNS):
        mean = (men[:, i].mean() + women[:, i].mean()) / 2
        out[name] = {"study": "ansur2", "mean": round(float(mean), 2), "sd": round(float(sd[i]), 2)}
    for study, figures in (("niosh2003", NIOSH), ("rufer2005", RUFER)):
        for name, ((m1, s1), (m2, s2)) in figures.items():
            total = np.sqrt((s1**2 + s2**2) / 2 + ((m1 - m2) / 2) ** 2)
            figure = {"study": study, "mean": round((m1 + m2) / 2, 3), "sd": round(float(total), 3)}
            out.setdefault(name, figure)
    return {
        "what": "a population of half men and half women; ansur2 where it has the measure",
        "measures": {name: out[name] for name in DEFINITIONS if name in out},
        "correlations": {
            "study": "ansur2",
            "measures": list(ANSUR_COLUMNS),
            "matrix": (covariance / np.outer(sd, sd)).round(4).tolist(),
        },
    }


if __name__ == "__main__":
    main()
