"""Stage `inspect`: a report on the faces and masks, before anything is trained on them."""

import json

from scadm.data.tables import FaceTable
from scadm.files.manifest import Manifest, Split
from scadm.inspection.page import as_json, write_page
from scadm.inspection.reported import reported
from scadm.inspection.survey import survey
from scadm.progress import bar
from scadm.stage import Stage, run


def main(stage: Stage) -> None:
    data = Manifest.read(stage.path("data/onehot"))
    raw = Manifest.read(stage.path("data/raw"), verify=False)
    split_of: dict[str, Split] = {id: split for split, ids in data.splits.items() for id in ids}
    table = FaceTable(stage.path("data/onehot"), None)
    with bar(len(table), "inspect", "faces") as progress:
        found = survey(
            table, [split_of[id] for id in table.ids], progress.update, photographs=raw.source != "synthetic"
        )
    known = reported(table.ids, raw.counts.get("faces", 0))
    broken = len({suspicion.position for suspicion in found.suspicions})
    twins = "" if found.twins is None else f", {len(found.twins)} pictures are in two splits"
    stage.say(f"{broken} of {len(table)} masks break a rule{twins}")
    rows = [f"{c.name},{c.faces:.4f},{c.area:.6f}\n" for c in found.classes]
    stage.write("reports/classes.csv", "class,faces_share,mean_area\n" + "".join(rows))
    stage.write("reports/data.json", json.dumps(as_json(found, known), indent=1) + "\n")
    title = f"The faces of {stage.params.project.data_name}, {data.resolution} pixels"
    write_page(stage.path("reports/data.html"), found, known, table, title, raw.terms)


if __name__ == "__main__":
    run("inspect", main)
