"""infra/README.md: its commands name what is there."""

import re

from infra_files import README, ROOT


def test_the_readme_s_commands_name_what_is_there() -> None:
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
    for name in re.findall(r"infra/[\w.-]+", commands):
        assert (ROOT / name).exists() or name == "infra/.env", name
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"\bmake ([a-z-]+)", README):
        assert target in targets or target == "two-nodes", target
    for file in ("Dockerfile", "compose.yaml", "kuberay.yaml", "kuberay-job.yaml", "aws.yaml", "aws-iam.yaml"):
        assert f"`{file}`" in README or f"infra/{file}" in commands
