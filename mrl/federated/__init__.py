"""Clients that hold prefixes of different width: nested vectors trained without the data leaving them.

Nothing here is private by itself: a server can read most of what a client has from its messages (`messages`).

    config          the settings of a federated training
    messages        what travels, its size in bytes, and what is refused
    clients         clients, what is theirs alone, and their widths
    method          what a method is, and how uploads become a sum: where other methods and protections go in
    closed_form     federated nested least squares, block by block
    local_steps     nested BPR on many clients at once, each with its own copy of the items it touches
    averaging       what gradient methods have in common: columns averaged, the server's Adam
    hetefedrec      HeteFedRec: clients of different width, one table
    fedmrl          FedMRL: the first columns shared, the rest private to the client
    simulator       rounds of tens of thousands of clients in this process
    baselines       each client alone, and the central model
    tables          accuracy by client group, what travelled, what it took to get there
    run             from settings to a run directory
"""

from mrl.federated.clients import Clients, Population, assign_widths, make_clients
from mrl.federated.closed_form import ClosedForm, upload_bytes
from mrl.federated.config import FederatedConfig
from mrl.federated.fedmrl import FedMRL
from mrl.federated.hetefedrec import HeteFedRec
from mrl.federated.messages import Message, MessageError, add_up, check_message
from mrl.federated.method import METHODS, Method, PlainSum, Server, Summation, Uploads, make_method
from mrl.federated.run import fit_federated
from mrl.federated.simulator import Simulation
from mrl.federated.tables import client_table, traffic
