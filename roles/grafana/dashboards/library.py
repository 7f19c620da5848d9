"""What every board shares: one data source, panels with a unit and a description, links that keep the node."""

from __future__ import annotations

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as promql

SOURCE = model.DataSourceRef(type_val="prometheus", uid="prometheus")
CLUSTER = 'cluster="$cluster"'

NODE_LINK = dashboard.DashboardLink("PostgreSQL on ${__field.labels.instance}").url(
    "/d/pgfleet-node?var-node=${__field.labels.instance}&${__url_time_range}")

# What a label is called where people read it.
HEADINGS = {"alertname": "Alert", "instance": "Node", "node": "Node", "severity": "Severity"}

# (from this value on, this colour); None is below every other.
Steps = list[tuple[float | None, str]]
NEUTRAL: Steps = [(None, "blue")]
ZERO_IS_WELL: Steps = [(None, "green"), (1, "red")]
ONE_IS_WELL: Steps = [(None, "red"), (1, "green"), (2, "red")]
LAG_BYTES: Steps = [(None, "green"), (16 << 20, "orange"), (256 << 20, "red")]
LAG_SECONDS: Steps = [(None, "green"), (10, "orange"), (60, "red")]
USED_RATIO: Steps = [(None, "green"), (0.8, "orange"), (0.9, "red")]

# {value: (text, colour)}
Words = dict[int, tuple[str, str]]
ROLES: Words = {0: ("replica", "blue"), 1: ("primary", "green")}
ANSWERS: Words = {0: ("down", "red"), 1: ("up", "green")}


def query(expr: str, legend: str = "", *, instant: bool = False, name: str = "A") -> prometheus.Dataquery:
    built = prometheus.Dataquery().datasource(SOURCE).expr(expr).legend_format(legend).ref_id(name)
    return built.instant().format(promql.PromQueryFormat.TABLE) if instant else built.range()


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(
        [model.Threshold(value=value, color=colour) for value, colour in steps])


def _mappings(words: Words) -> list[model.ValueMapping]:
    return [model.ValueMap(options={
        str(value): model.ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, (text, colour)) in enumerate(sorted(words.items()))})]


def figure(
    title: str, description: str, expr: str, unit: str, *,
    steps: Steps = NEUTRAL, words: Words | None = None, legend: str = "", width: int = 4,
) -> stat.Panel:
    """One number as it is now, large, in the colour of its threshold."""
    panel = (
        stat.Panel().title(title).description(description).datasource(SOURCE).unit(unit).height(4).span(width)
        .thresholds(_thresholds(steps)).color_mode(shapes.BigValueColorMode.VALUE).graph_mode(shapes.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).with_target(query(expr, legend)))
    return panel.mappings(_mappings(words)) if words else panel


def lines(
    title: str, description: str, unit: str, *targets: tuple[str, str],
    steps: Steps | None = None, stacked: bool = False, maximum: float | None = None, link: dashboard.DashboardLink | None = None, width: int = 12,
) -> timeseries.Panel:
    """How quantities move; targets are (query, legend)."""
    panel = (
        timeseries.Panel().title(title).description(description).datasource(SOURCE).unit(unit).height(8).span(width)
        .min(0).fill_opacity(30 if stacked else 8).line_width(1).show_points(shapes.VisibilityMode.NEVER)
        .legend(common.VizLegendOptions().show_legend(True).placement(shapes.LegendPlacement.BOTTOM)
                .display_mode(shapes.LegendDisplayMode.LIST))
        .tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING)))
    for number, (expr, legend) in enumerate(targets):
        panel = panel.with_target(query(expr, legend, name=chr(ord("A") + number)))
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL))
    if steps:
        panel = panel.thresholds(_thresholds(steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED))
    if maximum is not None:
        panel = panel.max(maximum)
    return panel.data_links([link]) if link else panel


def states(title: str, description: str, expr: str, legend: str, words: Words, *, width: int = 12) -> statetimeline.Panel:
    """What something was, over time, one lane each."""
    return (
        statetimeline.Panel().title(title).description(description).datasource(SOURCE).unit("none").height(8).span(width)
        .mappings(_mappings(words)).show_value(shapes.VisibilityMode.NEVER).line_width(0).fill_opacity(80)
        .thresholds(_thresholds(NEUTRAL)).with_target(query(expr, legend)))


def bars(title: str, description: str, expr: str, legend: str, unit: str, *, steps: Steps = NEUTRAL, width: int = 12) -> bargauge.Panel:
    """Things of one kind side by side, as they are now."""
    return (
        bargauge.Panel().title(title).description(description).datasource(SOURCE).unit(unit).height(8).span(width).min(0)
        .orientation(shapes.VizOrientation.HORIZONTAL).display_mode(shapes.BarGaugeDisplayMode.BASIC)
        .thresholds(_thresholds(steps)).reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(query(expr, legend)))


# (column, query, unit, steps, words)
Column = tuple[str, str, str, Steps, Words | None]


def rows(title: str, description: str, key: str, columns: list[Column], *, link: dict[str, str] | None = None, width: int = 24) -> table.Panel:
    """One row for each value of the label `key`, one column for each query, as they are now; the link is on the key."""
    panel = table.Panel().title(title).description(description).datasource(SOURCE).unit("none").height(8).span(width).filterable(True)
    renamed = dict(HEADINGS)
    for number, (column, expr, unit, steps, words) in enumerate(columns):
        letter = chr(ord("A") + number)
        renamed[f"Value #{letter}" if len(columns) > 1 else "Value"] = column
        panel = panel.with_target(query(expr, instant=True, name=letter))
        properties: list[tuple[str, object]] = [("unit", unit), ("thresholds", _thresholds(steps).build())]
        if steps != NEUTRAL or words:
            properties.append(("custom.cellOptions", {"type": "color-text"}))
        if words:
            properties.append(("mappings", _mappings(words)))
        panel = panel.override_by_name(column, [model.DynamicConfigValue(id_val=name, value=value) for name, value in properties])
    if link:
        panel = panel.override_by_name(HEADINGS[key], [model.DynamicConfigValue(id_val="links", value=[link])])
    return (
        panel
        .with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(model.DataTransformerConfig(
            id_val="organize", options={"excludeByName": {"Time": True}, "renameByName": renamed})))


def choice(name: str, label: str, values: str, *, several: bool = False) -> dashboard.QueryVariable:
    """A variable whose values Prometheus knows."""
    built = (
        dashboard.QueryVariable(name).label(label).datasource(SOURCE).query(values)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC))
    return built.multi(True).include_all(True).all_value(".*") if several else built


def board(name: str, title: str, description: str, *variables: dashboard.QueryVariable) -> dashboard.Dashboard:
    """An empty board with the links between all of them at its top."""
    built = (
        dashboard.Dashboard(title).uid(f"pgfleet-{name}").description(description).tags(["pgfleet"])
        .refresh("10s").time("now-1h", "now").timezone("browser").tooltip(model.DashboardCursorSync.CROSSHAIR).readonly()
        .link(dashboard.DashboardLink("Boards").type(model.DashboardLinkType.DASHBOARDS).tags(["pgfleet"])
              .include_vars(True).keep_time(True))
        .with_variable(choice("cluster", "Cluster", "label_values(pgfleet:inventory:node, cluster)")))
    for variable in variables:
        built = built.with_variable(variable)
    return built


def finish(built: dashboard.Dashboard) -> model.Dashboard:
    """The board with numbered panels, and with its links in sight rather than in a menu."""
    whole = built.build()
    for number, panel in enumerate(whole.panels or [], start=1):
        panel.id_val = number
    for link in whole.links or []:
        link.placement = None
    return whole
