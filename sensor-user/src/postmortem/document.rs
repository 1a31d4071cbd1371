//! A postmortem as a document, in Markdown and in HTML.

use std::fmt::Write as _;

use super::{
    causes::Cause,
    charts,
    report::Report,
    text::{Text, html},
};
use crate::history::times;

/// A part of a document.
enum Block {
    Heading(&'static str),
    Paragraph(Text),
    List(Vec<Text>),
    Table(&'static [&'static str], Vec<Vec<Text>>),
    Code(String),
}

/// The report as one file of Markdown.
pub fn markdown(report: &Report) -> String {
    let mut out = format!("# {}\n", title(report).markdown(false));
    for block in blocks(report) {
        out.push('\n');
        match block {
            Block::Heading(text) => {
                let _ = writeln!(out, "## {text}");
            }
            Block::Paragraph(text) => {
                let _ = writeln!(out, "{}", text.markdown(false));
            }
            Block::List(items) => {
                for item in items {
                    let _ = writeln!(out, "- {}", item.markdown(false));
                }
            }
            Block::Table(head, rows) => {
                let _ = writeln!(out, "| {} |", head.join(" | "));
                let _ = writeln!(out, "|{}", "---|".repeat(head.len()));
                for row in rows {
                    let cells: Vec<_> = row.iter().map(|cell| cell.markdown(true)).collect();
                    let _ = writeln!(out, "| {} |", cells.join(" | "));
                }
            }
            Block::Code(text) => {
                let _ = writeln!(out, "```\n{text}\n```");
            }
        }
    }
    out
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
padding:0 1rem;color:#222;background:#fff}table{border-collapse:collapse}td,th{border:1px solid #ccc;\
padding:.2rem .5rem;text-align:left;vertical-align:top}code,pre{background:#f3f3f3}pre{padding:.5rem}\
svg{display:block;margin:.5rem 0}";

/// The report as one file of HTML, which asks no other server for anything.
pub fn page(report: &Report) -> String {
    let title = title(report);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{}</title>\n\
         <style>{STYLE}</style>\n<h1>{}</h1>\n",
        html(&title.plain()),
        title.html()
    );
    let mut headings = 0;
    for block in blocks(report) {
        match block {
            Block::Heading(text) => {
                headings += 1;
                // Behind the summary.
                if headings == 2 {
                    out.push_str(&charts::svg(report));
                }
                let _ = writeln!(out, "<h2>{text}</h2>");
            }
            Block::Paragraph(text) => {
                let _ = writeln!(out, "<p>{}</p>", text.html());
            }
            Block::List(items) => {
                out.push_str("<ul>\n");
                for item in items {
                    let _ = writeln!(out, "<li>{}</li>", item.html());
                }
                out.push_str("</ul>\n");
            }
            Block::Table(head, rows) => table(&mut out, head, &rows),
            Block::Code(text) => {
                let _ = writeln!(out, "<pre>{}</pre>", html(&text));
            }
        }
    }
    out.push_str("</html>\n");
    out
}

fn table(out: &mut String, head: &[&str], rows: &[Vec<Text>]) {
    let _ = writeln!(out, "<table>\n<tr><th>{}</th></tr>", head.join("</th><th>"));
    for row in rows {
        let cells: Vec<_> = row.iter().map(Text::html).collect();
        let _ = writeln!(out, "<tr><td>{}</td></tr>", cells.join("</td><td>"));
    }
    out.push_str("</table>\n");
}

fn title(report: &Report) -> Text {
    let day = times::text(report.begin).chars().take("2026-11-28 03:12".len()).collect::<String>();
    Text::words("Postmortem: ").and_name(or_unknown(&report.host)).and(format!(", {day} UTC"))
}

fn or_unknown(name: &str) -> &str {
    if name.is_empty() { "unknown" } else { name }
}

fn blocks(report: &Report) -> Vec<Block> {
    let mut all = summary(report);
    all.push(Block::Heading("Timeline"));
    let rows = report.moments.iter();
    let rows = rows.map(|m| vec![Text::words(times::text(m.at)), m.what.clone()]).collect();
    all.push(Block::Table(&["Time (UTC)", "What happened"], rows));
    all.push(Block::Heading("Causes"));
    if report.causes.is_empty() {
        all.push(Block::Paragraph(Text::words("Not known.")));
    }
    for (n, cause) in report.causes.iter().enumerate() {
        all.extend(cause_blocks(n + 1, cause));
    }
    all.extend(earlier(report));
    if !report.actions.is_empty() {
        all.push(Block::Heading("Corrective actions"));
    }
    for action in &report.actions {
        all.push(Block::Paragraph(action.reason.clone().and(":")));
        all.push(Block::Code(action.command.clone()));
    }
    all.push(Block::Heading("Not known"));
    all.push(Block::List(report.open.clone()));
    all
}

fn summary(report: &Report) -> Vec<Block> {
    let confidence = report.confidence.map_or("none", super::causes::Confidence::label);
    let kernel = or_unknown(&report.kernel);
    let end = if report.is_over { "" } else { " (the record ends before it was over)" };
    let rows = [
        ("Host", Text::name(or_unknown(&report.host)).and(", kernel ").and_name(kernel)),
        ("Scope", Text::name(&report.scope)),
        ("Begin", Text::words(format!("{} UTC", times::text(report.begin)))),
        ("Duration", Text::words(format!("{:.1} s{end}", report.seconds))),
        ("Without weight", Text::words(format!("{:.1} s", report.seconds_without_weight))),
        ("With less weight", Text::words(format!("{:.1} s", report.seconds_with_less_weight))),
        ("Without a record", Text::words(format!("{:.0} s", report.seconds_silent))),
        ("Kills", Text::words(report.kills.to_string())),
        ("Confidence of the cause", Text::words(confidence)),
    ];
    let rows = rows.into_iter().map(|(name, value)| vec![Text::words(name), value]).collect();
    vec![
        Block::Heading("Summary"),
        Block::Paragraph(report.summary.clone()),
        Block::Table(&["", ""], rows),
    ]
}

fn cause_blocks(number: usize, cause: &Cause) -> Vec<Block> {
    let mut lines = Vec::new();
    if let Some(since) = cause.since {
        lines.push(Text::words(format!("since {}", times::text(since))));
    }
    lines.extend(cause.supports.iter().map(|text| Text::words("for: ").join(text.clone())));
    lines.extend(cause.contradicts.iter().map(|text| Text::words("against: ").join(text.clone())));
    let what = Text::words(format!("{number}. ")).join(cause.what.clone());
    let confidence = format!(" (confidence: {})", cause.confidence.label());
    vec![Block::Paragraph(what.and(confidence)), Block::List(lines)]
}

/// Seconds before the loss of weight, in words.
fn ahead(seconds: Option<f64>) -> Text {
    Text::words(match seconds {
        None => "never".to_owned(),
        Some(seconds) if seconds >= 0.0 => format!("{seconds:.1} s before"),
        Some(seconds) => format!("{:.1} s after", -seconds),
    })
}

fn earlier(report: &Report) -> Vec<Block> {
    let mut all = vec![Block::Heading("What would have caught it earlier")];
    if let (Some(limit), Some(cause)) = (report.limit, report.causes.first()) {
        let (mib, before) = (limit.bytes >> 20, limit.before >> 20);
        let text = Text::words(format!("With MemoryMax={mib}M, "))
            .and_name(&cause.name)
            .and(format!(" ({before} MiB before) would have reached its own limit "))
            .join(ahead(Some(limit.reached_ahead)))
            .and(" the incident began.");
        all.push(Block::Paragraph(text));
    }
    if report.rules.is_empty() {
        all.push(Block::Paragraph(Text::words("No rule fired, and none would have.")));
        return all;
    }
    all.push(Block::Paragraph(Text::words("Rules, against the first loss of weight:")));
    let rows = report.rules.iter().map(|rule| {
        let fired = ahead(rule.fired_ahead);
        let count = Text::words(rule.half_false.to_string());
        vec![Text::name(rule.rule), fired, ahead(rule.half_ahead), count]
    });
    let head = &[
        "Rule",
        "Fired",
        "Would have fired at half of its thresholds",
        "Alarms in the calm before, at half",
    ];
    all.push(Block::Table(head, rows.collect()));
    all
}
