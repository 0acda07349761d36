"""How many cores a process may use, and whether it shares its run: what the system's words say."""

import os

import pytest

from lattice_ml.runtime import processes, session
from lattice_ml.runtime.devices import usable_cores


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine of our own: files below `tmp_path`, and the CPUs that may be used."""

    def build(cpus, **files):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(cpus), raising=False)
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path

    return build


def siblings(n_cores, n_threads=2):
    """The topology of a machine that numbers the second thread of core k as k + n_cores."""
    return {
        f"sys__devices__system__cpu__cpu{cpu}__topology__thread_siblings_list": ",".join(
            str(cpu % n_cores + n_cores * thread) for thread in range(n_threads)
        )
        for cpu in range(n_cores * n_threads)
    }


def test_every_core_that_the_affinity_allows_is_used(system):
    assert usable_cores(system(range(6))) == 6


@pytest.mark.parametrize(
    ("cpus", "cores"), [(range(16), 8), (range(8), 8), ((0, 8), 1), ((0, 1, 9), 2)]
)
def test_hyper_threads_of_a_core_count_once(system, cpus, cores):
    assert usable_cores(system(cpus, **siblings(8))) == cores


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 64)],
)
def test_the_quota_of_a_container_is_respected(system, limit, cores):
    files = {"proc__self__cgroup": "0::/", "sys__fs__cgroup__cpu_dot_max": limit}
    assert usable_cores(system(range(64), **files)) == cores


def test_the_smallest_quota_of_the_groups_above_counts(system):
    files = {
        "proc__self__cgroup": "0::/job/step/task",
        "sys__fs__cgroup__job__cpu_dot_max": "300000 100000",
        "sys__fs__cgroup__job__step__task__cpu_dot_max": "800000 100000",
    }
    assert usable_cores(system(range(64), **files)) == 3


@pytest.mark.parametrize(("quota", "cores"), [("400000", 4), ("-1", 64)])
def test_the_quota_of_older_systems_is_respected(system, quota, cores):
    files = {
        "proc__self__cgroup": "3:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n0::/docker/ab",
        "sys__fs__cgroup__cpu,cpuacct__cpu_dot_cfs_quota_us": quota,
        "sys__fs__cgroup__cpu,cpuacct__cpu_dot_cfs_period_us": "100000",
    }
    assert usable_cores(system(range(64), **files)) == cores


def test_this_machine_has_cores():
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


# Whether a run is shared.

SLURM = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_JOB_ID": "7"}


@pytest.fixture
def started(monkeypatch):
    """What `jax.distributed.initialize` is called with, None where it is not."""

    def start(environment, asked=None, updates=None):
        calls, updates = [], [] if updates is None else updates
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", environment)
            patch.setattr("jax.distributed.initialize", lambda *a, **k: calls.append((a, k)))
            patch.setattr("jax.config.update", lambda *a: updates.append(a))
            patch.setattr(processes, "team", lambda: processes.Team(1, 4))
            processes.join(asked, 20.0)
        return calls[0] if calls else None

    return start


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # sbatch without srun
        {"SLURM_ARRAY_TASK_ID": "3", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"},
    ],
)
def test_a_process_alone_stays_alone(started, environment):
    assert started(environment) is None


def test_the_tasks_of_a_slurm_step_share_a_run_unless_told_not_to(started):
    places, options = started(SLURM)
    assert places == (None, 4, 2), "JAX finds the first node"
    assert options["cluster_detection_method"] is None
    assert options["heartbeat_timeout_seconds"] == 20
    assert started(SLURM, asked=False) is None


@pytest.mark.parametrize(
    ("tasks", "all_of_them"), [("1", True), ("1(x4)", True), ("4(x2)", False), ("2,1", False)]
)
def test_a_task_alone_on_its_node_has_all_gpus(started, tasks, all_of_them):
    updates = []
    started(SLURM | {"SLURM_STEP_TASKS_PER_NODE": tasks}, updates=updates)
    assert (("jax_cuda_visible_devices", "all") in updates) == all_of_them
    ours = SLURM | {"SLURM_STEP_TASKS_PER_NODE": tasks, "JAX_LOCAL_DEVICE_IDS": "0"}
    started(ours, updates=(updates := []))
    assert [name for name, _ in updates] == ["jax_cpu_collectives_implementation"]


def test_open_mpi_shares_a_run_where_the_first_process_has_an_address(started):
    environment = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    with pytest.raises(ValueError, match="OMPI_COMM_WORLD_SIZE=2 needs JAX_COORDINATOR_ADDRESS"):
        started(environment)
    uri = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}
    assert started(environment | uri)[0] == (None, 2, 1)
    address = {"JAX_COORDINATOR_ADDRESS": "node1:1234"}
    assert started(environment | address)[0] == ("node1:1234", 2, 1)


def test_what_the_user_says_goes_before_what_slurm_says(started):
    own = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "n:1"}
    places, options = started(SLURM | own)
    assert places == ("n:1", 2, 0)
    assert options["cluster_detection_method"] == "deactivate"


@pytest.mark.parametrize("process", ["2", "x", None])
def test_a_place_that_there_is_not_is_refused(started, process):
    environment = {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "n:1"}
    if process is not None:
        environment["JAX_PROCESS_ID"] = process
    with pytest.raises(
        ValueError, match="JAX_NUM_PROCESSES=2 needs JAX_PROCESS_ID from 0 to 2 - 1"
    ):
        started(environment)


def test_asking_for_processes_that_there_are_not_is_refused(started):
    with pytest.raises(ValueError, match="--distributed: found neither Slurm's nor Open MPI's"):
        started({}, asked=True)


# What processes tell each other, with a team that has a second one.


class Pair(processes.Team):
    """A team of two, of which the other says what it is told to."""

    def gather(self, value):
        self.said.append(value)
        return [value, self.other]


@pytest.fixture
def pair():
    def says(other):
        team = Pair(0, 2)
        object.__setattr__(team, "other", other)
        object.__setattr__(team, "said", [])
        return team

    return says


def test_a_step_that_fails_elsewhere_fails_here(pair):
    assert pair({"value": 7}).together(lambda: 6) == [6, 7]
    full = pair({"error": "shards/x.h5: No space left on device"})
    with pytest.raises(processes.PeerError, match=r"process 1 of 2: shards/x\.h5: No space"):
        full.together(lambda: 6)


def test_a_step_that_fails_here_tells_the_others_first(pair):
    team = pair({"value": None})
    with pytest.raises(KeyError, match="lost"):
        team.together(lambda: {}["lost"])
    assert team.said == [{"error": "'lost'"}]


@pytest.mark.parametrize(
    ("said", "reason"),
    [([[], True], "time limit"), ([[15], False], "SIGTERM"), ([[], False], None)],
)
def test_all_stop_for_the_reason_of_one(pair, said, reason):
    assert session.Watch(deadline=float("inf")).agree(pair(said)) == reason
