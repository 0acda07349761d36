"""Actions: their contract and forces, phi^4 and free fields in (h, a, b), the named conventions."""

from lattice_ml.actions.action import Action as Action
from lattice_ml.actions.action import as_action as as_action
from lattice_ml.actions.action import check_dimension as check_dimension
from lattice_ml.actions.action import difference as difference
from lattice_ml.actions.action import force as force
from lattice_ml.actions.action import total as total
from lattice_ml.actions.phi4 import FreeField as FreeField
from lattice_ml.actions.phi4 import Phi4 as Phi4
from lattice_ml.actions.phi4 import Quartic as Quartic
from lattice_ml.actions.phi4 import hopping_scale as hopping_scale
from lattice_ml.actions.phi4 import number as number
from lattice_ml.actions.phi4 import quadratic_form as quadratic_form
from lattice_ml.actions.phi4 import quartic as quartic
