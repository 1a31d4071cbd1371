//! The classic Prometheus text format (0.0.4), from OpenMetrics text.
//!
//! prometheus-client writes OpenMetrics only. Samples are the same in both formats; metadata
//! differs: the classic format has no UNIT and EOF lines, names a counter with its `_total` and has
//! no type `info`. Pure.

/// Converts OpenMetrics text as prometheus-client writes it to classic text.
pub fn from_open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, text)) = help.take() {
                for part in ["# HELP ", name, suffix, " ", text, "\n"] {
                    out.push_str(part);
                }
            }
            for part in ["# TYPE ", name, suffix, " ", kind, "\n"] {
                out.push_str(part);
            }
        } else if !line.starts_with("# UNIT ") && line != "# EOF" {
            out.push_str(without_exemplar(line));
            out.push('\n');
        }
    }
    out
}

/// A sample without its exemplar. A `#` within a label's value begins no exemplar.
fn without_exemplar(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    let begin = line.bytes().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => return byte == b'#' && !quoted,
        }
        false
    });
    begin.map_or(line, |begin| line[..begin].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_changes_and_samples_do_not() {
        let open = "# HELP a_seconds Some time\n# TYPE a_seconds counter\n\
                    # UNIT a_seconds seconds\na_seconds_total{x=\"# EOF\"} 1.5\n\
                    # HELP b Build\n# TYPE b info\nb_info{v=\"1\"} 1\n\
                    # HELP c Now\n# TYPE c gauge\nc 3\n# EOF\n";
        let classic = "# HELP a_seconds_total Some time\n# TYPE a_seconds_total counter\n\
                       a_seconds_total{x=\"# EOF\"} 1.5\n\
                       # HELP b_info Build\n# TYPE b_info gauge\nb_info{v=\"1\"} 1\n\
                       # HELP c Now\n# TYPE c gauge\nc 3\n";
        assert_eq!(from_open_metrics(open), classic);
    }

    #[test]
    fn exemplars_are_removed_and_label_values_stay() {
        let open = "a_total{x=\"\\\\\\\" # {y=1} 2\"} 3 # {event_id=\"b-1\"} 1.0 1700000000.5\n\
                    b_total 1 # {event_id=\"b-1\"} 1\n\
                    # HELP c #1\n# TYPE c gauge\nc{x=\" # {\"} 1\n";
        let classic = "a_total{x=\"\\\\\\\" # {y=1} 2\"} 3\n\
                       b_total 1\n# HELP c #1\n# TYPE c gauge\nc{x=\" # {\"} 1\n";
        assert_eq!(from_open_metrics(open), classic);
    }
}
