"""What Flower starts: on every node a client, which owns the users of one partition, and one server.

    flwr run mrl/flower --stream --federation-config num-supernodes=100      settings of its pyproject.toml
    flwr run mrl/flower --stream --federation-config num-supernodes=20 -c 'clients=20 groups=20 widths="[4, 8]"'

A node keeps what is its own (its users' vectors, what it has downloaded) in its Context between messages. In the
simulation all nodes find the data set on this machine and take their partition of it; in a deployment a node has its
own, and `partition` is the place to read it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import lru_cache
from logging import INFO

import polars as pl
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log
from torch import Tensor

from mrl.data import Interactions, load_data
from mrl.errors import ConfigError, RunError
from mrl.evaluation import evaluate
from mrl.federated import Clients, FederatedConfig, Message, Population, Server, make_clients, make_method
from mrl.flower.strategy import FACTS, TENSORS, ColumnSums, from_records, to_records, to_tensors

TABLES = tuple(each.name for each in fields(Clients) if "dict" in str(each.type))  # what clients keep by name
USERS = "users"  # the record of a node's Context beside these
PATIENCE = 600  # seconds until all nodes have to be there

client = ClientApp()


@client.query()
def introduce(message: FlowerMessage, context: Context) -> FlowerMessage:
    """How wide the node is, and how many items there are."""
    _, data, clients = partition(message, context)
    facts = ConfigRecord({"width": clients.width, "items": data.num_items})
    return FlowerMessage(RecordDict({FACTS: facts}), reply_to=message)


@client.train()
def work(message: FlowerMessage, context: Context) -> FlowerMessage:
    """One step: the method's work on the node's own users, and its upload."""
    config, data, clients = partition(message, context)
    clients, uploads = make_method(config, data.num_items).work(clients, from_records(message.content))
    for record, tables in {USERS: {USERS: clients.users}, **_tables(clients)}.items():
        kept = {name: table for name, table in tables.items() if isinstance(table, Tensor)}
        context.state[record] = to_records(Message(0, 0, kept))[TENSORS] if kept else ArrayRecord()
    return FlowerMessage(to_records(uploads.alone(0)), reply_to=message)


@client.evaluate()
def measure(message: FlowerMessage, context: Context) -> FlowerMessage:
    """Sums over the node's users of their validation metrics, by width."""
    config, data, clients = partition(message, context)
    sent = from_records(message.content)
    tensors = dict(sent.tensors)
    tensors["items"] = _widened(tensors["items"], int(message.content[FACTS]["columns"]))
    own = Population(
        clients.positives,
        clients.owner,
        torch.tensor([clients.width]),
        _widened(clients.users, config.widths[-1]),
        **{name: tables for name, tables in _tables(clients).items() if name != "memory"},
    )
    vectors = make_method(config, data.num_items).vectors(Server(sent.round, tensors), own)
    table = evaluate(*vectors, data, split="valid", widths=config.widths, ks=(20,), per_user=True).per_user
    sums = table.group_by("width", "metric", "k").agg(pl.col("value").sum(), pl.len().alias("users"))
    metrics = {}
    for row in sums.iter_rows(named=True):
        key = f"{row['metric']}@{row['k']}_w{row['width']}"
        metrics |= {f"{key}.sum": row["value"], f"{key}.users": float(row["users"])}
    return FlowerMessage(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)


def partition(message: FlowerMessage, context: Context) -> tuple[FederatedConfig, Interactions, Clients]:
    """The settings, the node's own users with their interactions, and the node as the step before left it."""
    settings = message.content[FACTS]["settings"]
    config, everyone, population = _all_partitions(settings)
    number = torch.tensor([int(context.node_config["partition-id"])])
    clients = population.take(number, int(population.widths[number]))
    rows = population.rows_of(number)
    splits = {name: getattr(everyone, name).take(rows) for name in ("train", "valid", "test")}
    data = replace(everyone, **splits, user_ids=everyone.user_ids[rows.numpy()], dropped=None)
    if USERS in context.state:
        tables = {name: to_tensors(context.state[name]) for name in TABLES}
        clients = clients.updated(users=to_tensors(context.state[USERS])[USERS], **tables)
    return config, data, clients


@lru_cache(maxsize=1)
def _all_partitions(settings: str) -> tuple[FederatedConfig, Interactions, Population]:
    """The data set that the simulation deals out, read once a process."""
    config = FederatedConfig(**json.loads(settings))
    data = load_data(config.training)
    population = make_clients(config, data.train)
    method, generator = make_method(config, data.num_items), torch.Generator().manual_seed(config.seed)
    method.start_server(generator)  # as in the simulator, where clients draw after the server
    method.start_clients(population, generator)
    return config, data, population


def _tables(clients: Clients) -> dict[str, dict]:
    return {name: getattr(clients, name) for name in TABLES}


def _widened(table: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(table, (0, width - table.shape[1]))


def check_flower(config: FederatedConfig) -> None:
    """ConfigError where Flower's own engine decides what a setting says, or the server would have to see the data."""
    if config.scenario not in ("mixed", "narrow"):
        raise ConfigError(f"scenario={config.scenario!r}: the Flower app runs mixed and narrow; take the simulator")
    plain = FederatedConfig()
    for name in ("fraction", "dropout", "stragglers"):
        if getattr(config, name) != getattr(plain, name):
            raise ConfigError(f"{name}={getattr(config, name)}: in the Flower app all clients take part in all rounds")
    if config.alpha0 is None:
        raise ConfigError("alpha0=None: the server knows no density of the data; give a number such as 0.1")


def serve(grid: Grid, config: FederatedConfig, clients: int) -> pl.DataFrame:
    """All rounds over the nodes of a grid; their metrics, as of `mrl.flower.run_flower`.

    clients: how many nodes there have to be before it begins; RunError where they do not come.
    """
    check_flower(config)
    settings = json.dumps(config.to_dict())
    hello = RecordDict({FACTS: ConfigRecord({"settings": settings})})
    started = time.monotonic()
    while len(nodes := list(grid.get_node_ids())) < clients:
        if time.monotonic() - started > PATIENCE:
            raise RunError(
                f"{len(nodes)} of {clients} clients have come in {PATIENCE} s; start the others, or ask for fewer"
            )
        time.sleep(0.2)
    replies = list(grid.send_and_receive([FlowerMessage(hello, node, "query") for node in nodes]))
    if failed := next((reply for reply in replies if reply.has_error()), None):
        raise RunError(f"client {failed.metadata.src_node_id} does not start: {failed.error.reason}")
    facts = {reply.metadata.src_node_id: reply.content[FACTS] for reply in replies}
    num_items = {int(fact["items"]) for fact in facts.values()}
    if len(num_items) != 1:
        raise RunError(f"nodes have catalogues of {sorted(num_items)} items: all need the same")
    strategy = ColumnSums(config, num_items.pop(), {node: int(fact["width"]) for node, fact in facts.items()}, settings)
    strategy.start(grid, strategy.arrays(), num_rounds=len(strategy.plan))
    rows = []
    for name in sorted(name for name in strategy.metrics if name.endswith(".sum")):
        key = name.removesuffix(".sum")
        users = strategy.metrics[f"{key}.users"]
        metric, k, width = key.replace("_w", "@").split("@")
        value = strategy.metrics[name] / users
        rows.append({"width": int(width), "metric": metric, "k": int(k), "users": int(users), "value": value})
    return pl.DataFrame(rows).sort("metric", "width")


def make_server_app(config: FederatedConfig | None, clients: int, tell: Callable[[pl.DataFrame], None]) -> ServerApp:
    """A server of a config and its clients, None and 0 for those of the run's settings; `tell` gets its metrics."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        settings = dict(context.run_config)
        count = clients or int(settings.pop("clients"))
        tell(serve(grid, config or FederatedConfig(**{name: _parsed(each) for name, each in settings.items()}), count))

    return app


def _parsed(value: str | int | float | bool) -> object:
    """A setting of a run: lists and tables are text there."""
    return json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value


def _log(table: pl.DataFrame) -> None:
    for row in table.iter_rows(named=True):
        log(INFO, f"width {row['width']:4d}  {row['metric']}@{row['k']}  {row['value']:.4f}")


server = make_server_app(None, 0, _log)
