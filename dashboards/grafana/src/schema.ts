// The dashboards by Grafana's own published types (@grafana/schema): a test writes
// `export const board: Board = ...` below this text and has the TypeScript compiler judge it. An object that is
// written out may have no field that its type has not, so a misspelt one is refused.
//
// The published types leave a panel's options, custom settings and queries open, since they belong to plugins;
// here each kind of panel is given the types of its own plugin.

import type { AnnotationQuery, Dashboard, FieldConfig, FieldConfigSource, Panel, RowPanel } from '@grafana/schema';
// @ts-ignore: since 11 it is no longer published here, and then queries are not looked into.
import type { PrometheusDataQuery } from '@grafana/schema/dist/esm/raw/composable/prometheus/dataquery/x/PrometheusDataQuery_types.gen';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as text from '@grafana/schema/dist/esm/raw/composable/text/panelcfg/x/TextPanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// JSON has the values of enums, not their names.
type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
// JSON has null for a threshold's -Infinity.
type Json<T> = T extends object ? { [K in keyof T]: K extends 'value' ? Json<T[K]> | null : Json<T[K]> } : T;

type Query = Omit<PrometheusDataQuery, 'datasource' | 'scope'> & { datasource: { type?: string; uid?: string } };

interface Kind<Type extends string, Options, Custom> extends Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> {
  type: Type;
  title: string;
  description: string;
  options?: Partial<Options>;
  fieldConfig: Omit<FieldConfigSource, 'defaults'> & {
    defaults: Omit<FieldConfig, 'custom'> & { noValue: string; custom?: Partial<Custom> };
  };
  targets: Query[];
}

// Where a table had pages until 12.1; newer Grafanas read it, and write it elsewhere.
interface OldFooter {
  footer?: { show: boolean; reducer: string[]; enablePagination?: boolean; countRows?: boolean };
}

// A text has neither queries nor fields.
interface Text extends Omit<Panel, 'type' | 'options' | 'targets'> {
  type: 'text';
  options: Partial<text.Options>;
}

type Any =
  | Kind<'timeseries', timeseries.Options, timeseries.FieldConfig>
  | Kind<'stat', stat.Options, never>
  | Kind<'state-timeline', timeline.Options, timeline.FieldConfig>
  | Kind<'heatmap', heatmap.Options, heatmap.FieldConfig>
  | Kind<'table', table.Options & OldFooter, table.FieldConfig>
  | Text
  | RowPanel;

// What Prometheus' data source adds to an annotation.
interface Annotation extends AnnotationQuery {
  expr: string;
  titleFormat: string;
  textFormat: string;
  step: string;
  tagKeys: string;
  useValueForTime: boolean;
}

type Board = Json<
  Plain<
    Omit<Dashboard, 'panels' | 'annotations'> & {
      uid: string;
      panels: Any[];
      annotations?: { list: Annotation[] };
    }
  >
>;
