"""Commands as a user gives them: what they print, and how they end."""

from lattice_ml import cli


def run(capsys, *words):
    """Exit status, standard output and standard error of a command."""
    capsys.readouterr()
    status = cli.main([str(word) for word in words])
    return status, *capsys.readouterr()


def refused(capsys, *words, status=2):
    """The one sentence that a refused command prints, and nothing else."""
    got, out, err = run(capsys, *words)
    assert (got, out) == (status, ""), err
    assert err.startswith(f"lattice-ml {words[0]}: ") and err.count("\n") == 1, err
    return err
