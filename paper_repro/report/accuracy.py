"""The test accuracy of a trained network beside the one that a paper prints."""

from paper_repro.networks.training import Trained
from paper_repro.report.results import Claim


def close_to(accuracy: float, printed: float, images: int = 10_000) -> bool:
    """Tell whether an accuracy is within three standard errors of the printed one."""
    return bool(abs(accuracy - printed) <= 3 * (printed * (1 - printed) / images) ** 0.5)


def claim_of_accuracy(what: str, printed: float, trained: Trained) -> Claim:
    """Compare the test accuracy of Adebayo's CNN or MLP with the printed one."""
    return Claim(
        f"{what}: test accuracy",
        f"{100 * printed:.1f} %",
        f"{100 * trained.test_accuracy:.2f} %",
        close_to(trained.test_accuracy, printed),
        f"{trained.steps:,} training steps; the paper takes 20,000 and does not print the rate, "
        "its code takes 55,000 at rate 1e-4. A difference of at most three standard errors of "
        "10,000 images counts as agreement",
    )
