"""What a server learns of a client and what it does not, named and measured; put into a `mrl.federated.Simulation`.

masks.py      secure aggregation: the server sees the sum of the uploads alone
noise.py      user-level differential privacy: clipped messages, noise on sums, and the ε of it
accuracy.py   what that costs: accuracy by ε
attack.py     what a curious server reads from one upload, and from sums
draw.py       figures of both
config.py     parameters of the notebook that shows them

Protected, from whom:
- By neither: the server reads a client's items and its vector (up to sign) from its upload. Only the raw data stay.
- By masks: a server that follows the protocol, and other clients, see sums. An item that a single client of a sum has
  met still lays that client's vector bare, without a name.
- By noise: whoever sees the sums, the item vectors or all later results learns of any one user what ε allows. Where
  the server adds it, it sees the sums without it itself; with masks and the clients' own (`fewest`) nobody does.
- By neither: that a client takes part, when, and its width; clients that lie (poisoning); a server that lies. Settings
  that were searched on the data are not in ε. A user's own recommendations are made where the user's vector is.
"""

from mrl.privacy.masks import FixedPoint, MaskedSum, secure_sum
from mrl.privacy.noise import NoisySum, epsilon, noise_multiplier
from mrl.privacy.accuracy import accuracy_by_epsilon, multipliers, over_seeds, popularity
from mrl.privacy.attack import attack_federation, attack_sums
from mrl.privacy.draw import draw_attack, draw_epsilon
from mrl.privacy.config import PrivacyConfig
