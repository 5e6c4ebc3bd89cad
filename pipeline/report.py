"""Put all that is known of the model onto one page, with its verdict and what it is compared with."""

from scadm import tracking
from scadm.report.page import write_page
from scadm.report.results import Results
from scadm.report.sections import page
from scadm.stage import Stage, run


def main(stage: Stage) -> None:
    results, path = Results.read(stage), stage.path("reports/index.html")
    write_page(path, page(results))
    uri = tracking.tracking_uri(stage.params.tracking, stage.home)
    tracking.log_report(tracking.Tracked(uri, results.evaluation["mlflow_run"]), path)
    stage.say(f"the report is {path.relative_to(stage.data)}")


if __name__ == "__main__":
    run("report", main)
