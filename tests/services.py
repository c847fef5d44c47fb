"""Stand-ins of the packages by which services watch runs, for tests of what they are told."""

from types import ModuleType, SimpleNamespace


class Package(ModuleType):
    """A package with the calls of Weights & Biases and Trackio, which keeps what it is told."""

    def __init__(self, name):
        super().__init__(name)
        self.runs = []  # what each init was given
        self.logged = []  # (name of the run, step, values)
        self.finished = 0
        self.down = False
        self.Table = lambda columns, data: SimpleNamespace(columns=columns, data=data)

    def init(self, **given):
        self._answer()
        self.runs.append(given)

    def log(self, values, step):
        self._answer()
        self.logged.append((self.runs[-1]["name"], step, values))

    def finish(self):
        self.finished += 1

    def _answer(self):
        if self.down:
            raise ConnectionError("no answer from the server\nlong story")

    def steps(self):
        return [step for _, step, _ in self.logged]


class MlflowPackage(Package):
    """The same by the calls of MLflow."""

    def set_experiment(self, name):
        self.experiment = name

    def start_run(self, run_id=None, run_name=None, tags=None):
        self.init(id=run_id or f"id{len(self.runs)}", name=run_name, group=tags and tags["group"])
        return SimpleNamespace(info=SimpleNamespace(run_id=self.runs[-1]["id"]))

    def log_params(self, params):
        self.runs[-1]["config"] = params

    def log_metrics(self, values, step):
        self.log(values, step)

    def log_table(self, data, artifact_file):
        self.table = data, artifact_file

    def end_run(self):
        self.finish()
