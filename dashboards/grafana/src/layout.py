"""The parts of a dashboard around its panels: variables, links, annotations."""

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

# The URL at which docs/runbooks is served. Change it with the variable of a dashboard, or in the JSON before
# provisioning.
RUNBOOKS = "https://runbooks.example/memsensor"

ALL = VariableOption(True, "All", "$__all")
# Label values from the whole time range, so that a silent host can still be selected.
FROM_RANGE = VariableRefresh.ON_TIME_RANGE_CHANGED


def without_intervals(variable):
    """Removes fields that the builders add to every variable, but that only interval variables have."""
    internal = variable._internal
    internal.auto = internal.auto_min = internal.auto_count = None
    return variable


class PrometheusAnnotation(model.AnnotationQuery):
    """Adds the title and text templates of Prometheus annotations, which the builders do not have."""

    title = ""
    text = ""

    def to_json(self):
        """Includes the fields of the data source."""
        fields = {
            "titleFormat": self.title,
            "textFormat": self.text,
            "step": "",
            "tagKeys": "",
            "useValueForTime": False,
        }
        return super().to_json() | fields


class Annotation(AnnotationQuery):
    """A query that marks all graphs of a dashboard while a series is above 0."""

    def __init__(self, name, color, expr, title, text):
        self._internal = PrometheusAnnotation()
        self._internal.title, self._internal.text = title, text
        self.name(name).icon_color(color).expr(expr).datasource(DATASOURCE).enable(True).hide(False)


def dashboard(name, description, since):
    """A dashboard without panels, with the common settings, links and the data source."""
    board = Dashboard(f"memsensor / {name}").uid(f"{TAG}-{name}").description(description).tags([TAG, "memory"])
    board.editable().refresh("30s" if name != "incident" else "").time(since, "now").timezone("browser")
    board.annotations([])
    board.tooltip(model.DashboardCursorSync.CROSSHAIR)
    dashboards = DashboardLink("memsensor").type(DashboardLinkType.DASHBOARDS).icon("external link")
    board.link(
        dashboards.tags([TAG])
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
        .tooltip("other dashboards of memsensor")
    )
    board.link(link("Runbooks", "${runbooks}", "Runbook of each alert").target_blank(True))
    chosen = VariableOption(True, "Prometheus", "prometheus")
    source = DatasourceVariable("datasource").label("Data source").type("prometheus").current(chosen)
    return board.with_variable(without_intervals(source))


def hosts(board, many):
    """Adds the variables job and instance: several hosts, or one."""
    board.with_variable(labels("job", "memsensor_build_info", "job", many=True))
    of_job = 'memsensor_build_info{job=~"$job"}'
    return board.with_variable(labels("instance", of_job, "instance", many=many, all_value=".*" if many else ""))


def scope(board, hosts_of):
    """Adds the variable scope: the host, or a cgroup with its own verdict."""
    variable = labels("scope", f"memsensor_weight_ratio{{{hosts_of}}}", "scope")
    return board.with_variable(variable.current(VariableOption(True, "host", "host")))


def cgroups(board, hosts_of):
    """Adds the variable cgroup, for the panels about cgroups."""
    variable = labels("cgroup", f"memsensor_cgroup_memory_bytes{{{hosts_of}}}", "cgroup", many=True, all_value=".*")
    return board.with_variable(variable)


def runbooks(board):
    """Adds the variable runbooks: the URL at which they are served."""
    variable = TextBoxVariable("runbooks").label("Runbooks URL").default_value(RUNBOOKS)
    return board.with_variable(without_intervals(variable.current(VariableOption(True, RUNBOOKS, RUNBOOKS))))


def labels(name, metric, label, many=False, all_value=""):
    """A variable with the values of a label."""
    variable = without_intervals(QueryVariable(name)).label(name).datasource(DATASOURCE).refresh(FROM_RANGE)
    query = f"label_values({metric}, {label})"
    variable.query({"query": query, "refId": name}).sort(VariableSort.ALPHABETICAL_ASC).multi(many)
    if many:
        variable.include_all(True).current(ALL)
        if all_value:
            variable.all_value(all_value)
    return variable
