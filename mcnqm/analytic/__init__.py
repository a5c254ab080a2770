"""What can be derived on paper: exact risk, steady states, bounds and first passage of linear optimizers.

Nothing here simulates, and nothing here knows the simulation; each is the other's check.
``docs/analytic.md`` derives.
"""

from mcnqm.analytic import mean_field
from mcnqm.analytic.bounds import bayes_bound, information_bound, theorem1
from mcnqm.analytic.diffusion import sde_risk
from mcnqm.analytic.effective_rates import effective_lr
from mcnqm.analytic.loss_law import loss_law
from mcnqm.analytic.noise_scales import greedy_lr, noise_scale
from mcnqm.analytic.passage import steps_to_target
from mcnqm.analytic.stability import convergence_rate, largest_stable_lr
from mcnqm.analytic.steady import steady_state
from mcnqm.analytic.transient import moments, risk
from mcnqm.analytic.transition import transition

__all__ = [
    "bayes_bound",
    "convergence_rate",
    "effective_lr",
    "greedy_lr",
    "information_bound",
    "largest_stable_lr",
    "loss_law",
    "mean_field",
    "moments",
    "noise_scale",
    "risk",
    "sde_risk",
    "steady_state",
    "steps_to_target",
    "theorem1",
    "transition",
]
