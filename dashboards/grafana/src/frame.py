"""What stands around the panels: variables, links from dashboard to dashboard, annotations."""

from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    TextBoxVariable,
)
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.dashboard import DashboardLinkType, VariableOption, VariableRefresh, VariableSort

from panels import DATASOURCE, link

TAG = "memsensor"

# Where the runbooks of the repository (docs/runbooks) are served: to be changed at the top of a dashboard, or
# in the JSON before it is provisioned.
RUNBOOKS = "https://runbooks.example/memsensor"

ALL = VariableOption(True, "All", "$__all")
# Labels that are taken from who was there at any time of the range, so that one that is silent is found.
FROM_RANGE = VariableRefresh.ON_TIME_RANGE_CHANGED


def without_intervals(variable):
    """The builders give every variable what only those of time intervals have."""
    model_of = variable._internal
    model_of.auto = model_of.auto_min = model_of.auto_count = None
    return variable


class PrometheusAnnotation(model.AnnotationQuery):
    """The builders know an annotation's expression, but not how Prometheus' are titled."""

    title = ""
    text = ""

    def to_json(self):
        """With what the data source adds."""
        own = {"titleFormat": self.title, "textFormat": self.text, "step": "", "tagKeys": "", "useValueForTime": False}
        return super().to_json() | own


class Annotation(AnnotationQuery):
    """A query whose series are marks on every graph of a dashboard, while they are above 0."""

    def __init__(self, name, color, expr, title, text):
        self._internal = PrometheusAnnotation()
        self._internal.title, self._internal.text = title, text
        self.name(name).icon_color(color).expr(expr).datasource(DATASOURCE).enable(True).hide(False)


def dashboard(name, about, since):
    """A dashboard without panels, with what all of them have."""
    board = Dashboard(f"memsensor / {name}").uid(f"{TAG}-{name}").description(about).tags([TAG, "memory"])
    board.editable().refresh("30s" if name != "incident" else "").time(since, "now").timezone("browser")
    board.annotations([])
    board.tooltip(model.DashboardCursorSync.CROSSHAIR)
    others = DashboardLink("memsensor").type(DashboardLinkType.DASHBOARDS).icon("external link")
    board.link(others.tags([TAG]).as_dropdown(True).include_vars(True).keep_time(True).tooltip("the others"))
    board.link(link("Runbooks", "${runbooks}", "what to do about each alert").target_blank(True))
    chosen = VariableOption(True, "Prometheus", "prometheus")
    source = DatasourceVariable("datasource").label("Data source").type("prometheus").current(chosen)
    return board.with_variable(without_intervals(source))


def hosts(board, many):
    """The variables job and instance: all of them, or one."""
    board.with_variable(labels("job", "memsensor_build_info", "job", many=True))
    of_job = 'memsensor_build_info{job=~"$job"}'
    return board.with_variable(labels("instance", of_job, "instance", many=many, all_value=".*" if many else ""))


def scope(board, hosts_of):
    """Which verdict: the host's, or that of a cgroup which has one of its own."""
    variable = labels("scope", f"memsensor_weight_ratio{{{hosts_of}}}", "scope")
    return board.with_variable(variable.current(VariableOption(True, "host", "host")))


def cgroups(board, hosts_of):
    """Which cgroups the panels about cgroups show."""
    variable = labels("cgroup", f"memsensor_cgroup_memory_bytes{{{hosts_of}}}", "cgroup", many=True, all_value=".*")
    return board.with_variable(variable)


def runbooks(board):
    """Where the runbooks are."""
    at = TextBoxVariable("runbooks").label("Runbooks at").default_value(RUNBOOKS)
    return board.with_variable(without_intervals(at.current(VariableOption(True, RUNBOOKS, RUNBOOKS))))


def labels(name, metric, label, many=False, all_value=""):
    """A variable with the values that a label has."""
    variable = without_intervals(QueryVariable(name)).label(name).datasource(DATASOURCE).refresh(FROM_RANGE)
    query = f"label_values({metric}, {label})"
    variable.query({"query": query, "refId": name}).sort(VariableSort.ALPHABETICAL_ASC).multi(many)
    if many:
        variable.include_all(True).current(ALL)
        if all_value:
            variable.all_value(all_value)
    return variable
