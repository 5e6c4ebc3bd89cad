"""The report's sections, one function each: from results to tables, pictures and sentences."""

from collections.abc import Iterator

import pandas as pd

from scadm.config import TrainingConfig, flatten
from scadm.evaluation.figures import Figure
from scadm.evaluation.measure import Measure
from scadm.report import findings
from scadm.report.comparisons import Rival
from scadm.report.numbers import NONE, cell, columns, number, percent, table, title, way
from scadm.report.page import Cell, Page, Section, Table
from scadm.report.plots import Curve, plot
from scadm.report.results import Results

FLOOR, CEILING = "style_blind", "ceiling"

MEANINGS = {
    "style_blind": "the training faces' mean colour of each part, painted into the mask: knows no face",
    "own_colours": "the face's own mean colour of each part, painted in: a strong baseline, not a floor",
    "champion": "the registered model that this one was compared with, on the same faces",
    "model": "the diffusion model, from the face's styles and mask",
    "ceiling": "the real face through the autoencoder and back: as good as the latents allow",
}
SDM = (
    "SDM, the baseline, from the face's mask alone. It differs from the published one: of this size and schedule, on "
    "this pipeline's latents, with a feed-forward layer after each self-attention, and without learnt variances"
)
INTERVALS = "In small print: 95 % bootstrap intervals over faces."


def page(results: Results) -> Page:
    params = results.params
    size, name = params.project.resolution, params.project.data_name
    method = {"sca-dm": "SCA-DM", "sdm": "SDM, the baseline of the mask alone,"}[params.model.method]
    faces, way_gone = results.evaluation["faces"], results.evaluation["ssim_share"]
    summary = (
        f"{method} at {size} pixels, {_training(params.training, len(results.data.splits['train']))}. Measured on "
        f"{faces} faces of {name} that {_seen(results)}."
    )
    if way_gone is not None:
        summary += f" Its reconstructions go {percent(way_gone)} of the way in SSIM from style_blind to the ceiling."
    version = f"version {results.registration['version']} of {results.registration['model']}"
    promoted = results.registration["promoted"]
    sections = [
        _gate(results),
        _reconstruction(results),
        *_ways(results),
        _partial_swap(results),
        _total_swap(results),
        _interpolation(results),
        _noise_only(results),
        _conditioning(results),
        *_ablation(results),
        *_quoted(results),
        _each_part(results),
        _worst(results),
        _losses(results),
        _limits(results),
        _lineage(results),
    ]
    return Page(
        title=f"{method.split(',')[0]} on {name}, {size} pixels",
        summary=summary,
        verdict=f"champion: {version}" if promoted else f"{version}: not promoted",
        promoted=promoted,
        sections=[section for section in sections if section is not None],
    )


def _gate(results: Results) -> Section:
    return Section(
        "Verdict",
        "What the gate asked, before the model might become champion.",
        points=results.registration["reasons"],
    )


# --- the tables of the paper --------------------------------------------------------------------------


def _reconstruction(results: Results) -> Section:
    rows = results.rows("reconstruction")
    champion = (results.registration.get("compared_with") or {}).get("metrics")
    rivals, elsewhere = _rivals(results)
    shown = {name: rows[name] for name in ("style_blind", "own_colours")}
    shown |= {rival.name: rival.measures for rival in rivals}
    shown |= {"champion": {name: Measure(value) for name, value in champion.items()}} if champion else {}
    shown |= {name: rows[name] for name in ("model", "ceiling")}
    names = columns(rows)
    meanings = MEANINGS | ({"model": SDM} if results.params.model.method == "sdm" else {})
    ends = [rows[row]["ssim"].value for row in (FLOOR, CEILING)]
    cells = {
        row: [way(part["ssim"].value, *ends), *(cell(name, part) for name in names)] for row, part in shown.items()
    }
    missing = " A dash: the pictures equal the real ones bit for bit." if "psnr" not in rows["ceiling"] else ""
    caption = (
        f"{results.evaluation['faces']} test faces; mIoU and accuracy are of all their pixels together. {INTERVALS} "
        "The Fréchet and kernel distances are taken on the "
        f"features of the network that they name, between these faces and their real pictures. {_few(results)}{missing}"
    )
    return Section(
        "Reconstruction",
        "Each face from its own mask and styles (the paper's Table 1). What counts is the share of the way from "
        "style_blind to the ceiling; mIoU and accuracy are read against the ceiling's.",
        tables=[
            Table(
                columns=["share of the way, by SSIM", *map(title, names)],
                rows=cells,
                caption=caption,
                marked=["model"],
                meanings={
                    **{name: text for name, text in meanings.items() if name in shown},
                    **{rival.name: "pictures that were given, scored here" for rival in rivals},
                },
            )
        ],
        figures=_figures(results, "reconstruction"),
        points=[
            f"{rival.name} was scored on other faces or at another resolution ({rival.data_name}, {rival.resolution} "
            "pixels), and is left out: score its pictures anew by `scadm evaluate --images`."
            for rival in elsewhere
        ],
    )


def _rivals(results: Results) -> tuple[list[Rival], list[Rival]]:
    """Those that were scored on these faces by this parser, and the others."""
    here = (results.evaluation["test_split"], results.params.project.resolution, results.evaluation["parser"])
    fits = {r.name: (r.test_split, r.resolution, r.parser) == here for r in results.comparisons.rivals}
    rivals = results.comparisons.rivals
    return [r for r in rivals if fits[r.name]], [r for r in rivals if not fits[r.name]]


def _few(results: Results) -> str:
    faces = results.evaluation["faces"]
    if faces >= 1000:
        return f"Fréchet distances are of {faces} faces."
    return (
        f"A Fréchet distance of {faces} faces is biased upwards, and not to be compared with one of another number: "
        "below 1000 read the kernel distance, whose error (±) is its spread over random halves of the faces."
    )


def _quoted(results: Results) -> Iterator[Section]:
    quoted, project = results.comparisons.quoted, results.params.project
    if (project.data_name, project.resolution) != (quoted["data_name"], quoted["resolution"]):
        return
    names = {"ssim": "SSIM", "fid": "FID", "miou": "mIoU, %", "accuracy": "accuracy, %"}
    rows = {row: [Cell(str(part[name])) for name in names] for row, part in quoted["reconstruction"].items()}
    diverse = {row: [Cell(str(part["diversity"]))] for row, part in quoted["noise_only"].items()}
    parser = results.evaluation["parser"]
    yield Section(
        "The paper's numbers",
        f"Quoted from {quoted['source']}: {quoted['terms']}. Here mIoU and accuracy are by the parser {parser}: not "
        "comparable with the quoted.",
        tables=[
            Table(list(names.values()), rows, quoted=list(rows)),
            Table(["diversity (LPIPS)"], diverse, quoted=list(diverse)),
        ],
    )


# --- edits --------------------------------------------------------------------------------------------


def _ways(results: Results) -> Iterator[Section]:
    if figures := _figures(results, "three_ways"):
        yield Section("Three ways", figures=figures)


def _partial_swap(results: Results) -> Section:
    rows, pairs, rules = results.rows("partial_swap"), results.evaluation["pairs"], results.evaluation["rules"]
    none = [
        f"{row}: not measured, as {n} pairs of test faces show it, and 2 are needed."
        for row, n in pairs.items()
        if row not in rows
    ]
    said = [f"{findings.transfer(row, part)} {findings.leakage(part)}" for row, part in rows.items()]
    found = table(rows)
    with_pairs = {row: [Cell(str(pairs[row])), *cells] for row, cells in found.rows.items()}
    caption = (
        "Pairs of test faces: the reconstruction, and the same with these parts' style of the next face that shows "
        f"them (on {rules['least_share']:.1%} of its pixels or more). Transfer: how far the parts' mean colours went "
        "along the way to the reference's, 1 being all of it. Arrival: 1 less what is then left of the distance, so "
        "that it sees colour off the way too. Leakage: mean change outside the parts over that inside; "
        f"{rules['ring']} pixels beyond their border are left out. Other side: the same in the parts of the other "
        f"side, where those of one side were swapped, the paper's case of one eye. {INTERVALS}"
    )
    return Section(
        "The style of some parts",
        tables=[Table(["pairs", *found.columns], with_pairs, caption)] if rows else [],
        points=[*said, *none],
        figures=_figures(results, "partial_swap"),
    )


def _total_swap(results: Results) -> Section | None:
    rows = results.rows("total_swap")
    caption = (
        "Each test face's mask in the whole style of the next face. Transfer and arrival: over all parts that both "
        "show. Lacking parts seen: of the pixels of parts that the reference lacks, whose style noise chooses, the "
        f"share in which the parser sees them; beside it the same in the faces' own reconstructions. {INTERVALS}"
    )
    order = ["transfer", "arrival", "lacking", "lacking_own", *columns(rows)]
    return Section(
        "The whole style of another face",
        tables=[table(rows, list(dict.fromkeys(order)), caption=caption)],
        figures=_figures(results, "total_swap"),
    )


def _interpolation(results: Results) -> Section:
    rows, parts = results.rows("interpolation"), results.evaluation["rules"]["interpolated_parts"]
    caption = (
        f"{results.evaluation['interpolated']} test faces, led to the next face's style in even steps of the codes of "
        f"{', '.join(parts)} (parts), or of all parts (whole). Evenness: mean step of the picture over the largest, 1 "
        "where no step is larger than another. Directness: change from the first picture to the last over the sum of "
        f"the steps, 1 where there is no detour. {INTERVALS}"
    )
    return Section(
        "From one style to another",
        tables=[table(rows, caption=caption)] if rows else [],
        figures=_figures(results, "interpolation_parts", "interpolation_whole"),
    )


def _noise_only(results: Results) -> Section:
    rows, seconds = results.rows("noise_only"), results.rows("seconds")
    names = columns(rows)
    cells = {
        row: [*(cell(name, part) for name in names), Cell(f"{seconds[row]['per_image'].value:.3g}")]
        for row, part in rows.items()
    }
    where = "GPU" if results.params.cluster.use_gpu else "processor core"
    caption = (
        f"{results.evaluation['faces']} masks of test faces, without a reference, in so many steps of sampling; those "
        f"of all else on this page are {results.params.sampling.steps}. Distances to the real pictures. Diversity: "
        "between two pictures of a mask; by LPIPS its mean distance, by other features that distance over that of two "
        f"real faces. Seconds for a picture on one {where}, measured as the others were busy too. {INTERVALS}"
    )
    plots = []
    for name in (name for name in names if name.startswith("frechet_")):
        for across, shown in (("steps", "steps"), ("seconds", "seconds per image")):
            curve = Curve(title(name), results.steps[across].tolist(), results.steps[name].tolist())
            plots.append(plot([curve], shown, title(name)))
    return Section(
        "Noise alone",
        "Faces for masks alone, noise choosing every style (the paper's Fig. 7).",
        tables=[
            Table([*map(title, names), "seconds"], cells, caption, marked=[f"steps_{results.params.sampling.steps}"])
        ],
        plots=plots,
        figures=_figures(results, "noise_only", "noise_only_steps"),
    )


def _conditioning(results: Results) -> Section:
    rows = results.rows("conditioning")
    heading = "The loss under wrong conditions"
    if not rows:
        return Section(heading, "Not measured: no validation face has another one to take conditions from.")
    own = rows["own"]["loss"].value
    said = [findings.rise(rows[row], own, what) for row, what in (("other_styles", "styles"), ("other_masks", "mask"))]
    faces, turns = results.evaluation["conditioning_faces"], results.evaluation["rules"]["timesteps_a_face"]
    caption = (
        f"{faces} validation faces, {turns} timesteps of each, with the same noise in all rows: under its own style "
        "and mask, under the next face's style codes, and under the next face's mask. "
        f"Rise: the mean difference to the own, face by face. {INTERVALS}"
    )
    return Section(heading, tables=[table(rows, caption=caption)], points=said)


# --- comparisons and details --------------------------------------------------------------------------


def _ablation(results: Results) -> Iterator[Section]:
    found, project = results.comparisons.ablation, results.params.project
    if found is None or (found["data_name"], found["resolution"]) != (project.data_name, project.resolution):
        return
    order = found["columns"]
    measured = {form: {name: Measure(*ends) for name, ends in part.items()} for form, part in found["rows"].items()}
    rows = {form: [cell(name, part) for name in order] for form, part in measured.items()}
    yield Section(
        "Ablation",
        found["text"],
        tables=[Table([found["titles"][name] for name in order], rows, found["caption"], meanings=found["meanings"])],
    )


def _each_part(results: Results) -> Section:
    ious = results.evaluation["class_iou"]
    classes = list(dict.fromkeys(name for row in ious.values() for name in row))
    rows = {k: [Cell(number("iou", row[k])) if k in row else NONE for row in ious.values()] for k in classes}
    return Section(
        "Each part",
        "Intersection over union of the parser's labels with the mask that the picture was made from; under truth, "
        "with the mask of the real picture. A class that the test faces never show is not listed.",
        tables=[Table(list(ious), rows, first="part")],
    )


def _worst(results: Results) -> Section:
    names = [name for name in results.figures if name.startswith("worst_")]
    return Section("The worst", figures=_figures(results, *sorted(names)))


def _losses(results: Results) -> Section:
    def curve(name: str, losses: pd.DataFrame) -> Curve:
        return Curve(f"{name} loss", losses["step"].tolist(), losses["loss"].tolist())

    return Section("Training", plots=[plot([curve(*item) for item in results.losses.items()], "step")])


def _limits(results: Results) -> Section:
    faces, parser, unseen = (results.evaluation[name] for name in ("faces", "parser", "unseen"))
    points = [
        f"All intervals are over these {faces} faces: neither over seeds nor over trainings.",
        "Transfer and arrival see mean colours only, not the texture of a part; and leakage cannot tell a change of "
        "light that a new style brings from one that it should not.",
        f"mIoU, accuracy and the distances by its features rest on the parser {parser}, which errs on real faces too: "
        "read them against the ceiling's, and never against a table made with another parser.",
        "Nobody was asked whether a face looks real or like its model: no number here says so.",
    ]
    if not results.evaluation["networks"]:
        points.append(
            "Neither LPIPS nor a distance by Inception features was measured: their weights were not given "
            "(metrics.lpips and metrics.inception in params.yaml)."
        )
    if unseen:
        points.append(f"The train split shows no {', '.join(unseen)}: their colour in style_blind is a guess.")
    return Section("What is not known", points=points)


def _lineage(results: Results) -> Section:
    trained, data = results.trained, results.data
    own = results.params.model_dump(mode="json")
    sections = ("model", "diffusion", "training", "sampling", "evaluation")
    return Section(
        "Where it comes from",
        folded={
            "data": {
                "name": results.params.project.data_name,
                "source": own["data"]["source"],
                **{f"{split} faces": str(len(ids)) for split, ids in data.splits.items()},
                "data manifest": data.digest,
                "test split": results.evaluation["test_split"],
            },
            "run": {
                "run key": trained["run_key"],
                "MLflow run": trained["mlflow_run"],
                "sha256 of the weights' manifest": trained["sha256"],
                "autoencoder": data.autoencoder or "",
            },
            "parameters": flatten({name: own[name] for name in sections}),
        },
    )


def _figures(results: Results, *names: str) -> list[Figure]:
    return [results.figures[name] for name in names if name in results.figures]


def _training(training: TrainingConfig, faces: int) -> str:
    """How the weights were made, for a sentence."""
    if training.steps == 0:
        return f"with the weights of {training.init_from} as they are"
    start = f" from {training.init_from}" if training.init_from else ""
    return f"trained{start} for {training.steps} steps of {training.batch_size} on {faces} faces"


def _seen(results: Results) -> str:
    """What is known of how the measured faces relate to what was trained."""
    params = results.params
    if params.training.init_from is None and params.autoencoder.kind != "vq-f4" and params.parser.kind == "small":
        return "neither the model nor the autoencoder nor the parser has seen"
    return "no training of this pipeline has seen; what the pretrained weights were trained on is not checked"
