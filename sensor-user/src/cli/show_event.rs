//! Events for a terminal: a line each, and a screenful of one.

use std::fmt::{self, Write as _};

use comfy_table::{CellAlignment, Table, presets::NOTHING};

use super::{AllocContext, Event, EventKind, OomType, TaskInfo, VictimMemory};
use crate::{circumstances::OomReport, identity::WorkloadId, top::mib, who::Growth};

/// A name for a terminal: control characters and the like are shown, not sent.
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_debug())
    }
}

impl fmt::Display for WorkloadId {
    /// The pod, the container or the unit: what people would call it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unit, container, runtime, pod, pod_name } = self;
        let mut parts = Vec::new();
        if let Some(pod) = pod_name.as_ref().or(pod.as_ref()) {
            parts.push(format!("pod {}", pod.escape_debug()));
        }
        if let Some(container) = container {
            let runtime = runtime.as_deref().unwrap_or("container");
            let short: String = container.chars().take(12).collect();
            parts.push(format!("{runtime} {}", short.escape_debug()));
        }
        if let Some(unit) = unit {
            parts.push(format!("unit {}", unit.escape_debug()));
        }
        f.write_str(&parts.join(", "))
    }
}

impl fmt::Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (uid {}, ", self.pid, Printable(&self.comm), self.uid)?;
        let known = self.workload.to_string();
        if !known.is_empty() {
            write!(f, "{known}, ")?;
        }
        match &self.cgroup {
            Some(path) => write!(f, "cgroup {})", Printable(path)),
            None => write!(f, "cgroup id {})", self.cgroup_id),
        }
    }
}

impl fmt::Display for OomType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl fmt::Display for VictimMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { anon_bytes, file_bytes, shmem_bytes, swap_bytes, .. } = *self;
        let [anon, file, shmem, swap] = [anon_bytes, file_bytes, shmem_bytes, swap_bytes].map(mib);
        write!(f, "anon {anon} MiB, file {file} MiB, shmem {shmem} MiB, swap {swap} MiB")
    }
}

impl fmt::Display for AllocContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { order, gfp_flags, constraint, from_log } = self;
        write!(f, "order {order}, gfp {gfp_flags}, constraint {constraint}")?;
        f.write_str(if *from_log { " (by the kernel's log)" } else { "" })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}  ", self.time, self.id)?;
        match &self.what {
            EventKind::OomKill { oom_type, victim, trigger, memory, context, .. } => {
                let adj = victim.oom_score_adj;
                write!(
                    f,
                    "OOM kill ({oom_type}): {victim}, {memory}, oom_score_adj {adj}; triggered by {trigger}"
                )?;
                context.as_ref().map_or(Ok(()), |context| write!(f, ", {context}"))
            }
            EventKind::VictimExit { pid, seconds, .. } => {
                write!(f, "OOM victim {pid} gave its memory back after {seconds:.3} s")
            }
            EventKind::KillSignal { sender, target } => {
                write!(f, "SIGKILL by {sender} to {target}")
            }
        }
    }
}

impl Event {
    /// All of it, for whoever was just woken up.
    pub fn whole(&self) -> String {
        let mut text = format!("{}  {}\n", self.id, self.time);
        // Writing to a String cannot fail.
        let _ = match &self.what {
            EventKind::OomKill {
                oom_type,
                victim,
                trigger,
                memory,
                context,
                memory_back_seconds,
            } => {
                let oom_cgroup = match oom_type {
                    OomType::Global => "the machine ran out of memory",
                    OomType::Memcg => "a cgroup reached its limit",
                };
                let asked =
                    context.as_ref().map_or("not measured".to_owned(), AllocContext::to_string);
                let back = memory_back_seconds
                    .map_or("not seen yet".to_owned(), |seconds| format!("after {seconds:.3} s"));
                let adj = victim.oom_score_adj;
                writeln!(
                    text,
                    "killed by the kernel: {oom_cgroup}\n\
                     victim       {victim}\n\
                     it had       {memory}, oom_score_adj {adj}\n\
                     trigger      {trigger}\n\
                     asked for    {asked}\n\
                     memory back  {back}",
                )
            }
            EventKind::VictimExit { pid, seconds, kill } => {
                writeln!(text, "victim {pid} of {kill} gave its memory back after {seconds:.3} s")
            }
            EventKind::KillSignal { sender, target } => {
                writeln!(text, "killed by a process\nsender       {sender}\nvictim       {target}")
            }
        };
        if let Some(report) = &self.report {
            text.push_str(&report.tables());
        }
        text
    }
}

impl OomReport {
    fn tables(&self) -> String {
        let mut text = String::new();
        for contradiction in &self.contradictions {
            let _ = writeln!(text, "CONTRADICTION: {}", contradiction.escape_debug());
        }
        if let Some(stalled) = &self.stalled {
            let part =
                |what: &str, seconds: Option<f64>| seconds.map(|s| format!("{what} {s:.2} s"));
            let parts: Vec<_> = [
                part("some task waited", stalled.some_seconds),
                part("all waited", stalled.full_seconds),
                part("summed over tasks", stalled.stall_seconds),
            ]
            .into_iter()
            .flatten()
            .collect();
            let within = stalled.within_seconds;
            let _ =
                writeln!(text, "stalled      of the {within:.0} s before: {}", parts.join(", "));
        }
        if !self.cgroups.is_empty() {
            let mut table = table(&["MiB", "limit", "high", "swap", "kills", "cgroup"]);
            let some = |bytes: Option<u64>| bytes.map_or_else(String::new, mib);
            for level in &self.cgroups {
                table.add_row([
                    some(level.current_bytes),
                    some(level.max_bytes),
                    some(level.high_bytes),
                    some(level.swap_bytes),
                    level.oom_kills.map_or_else(String::new, |n| n.to_string()),
                    level.path.escape_debug().to_string(),
                ]);
            }
            let _ = writeln!(text, "\n{table}");
        }
        let Some(before) = self.usage_age_seconds else { return text };
        let when = if before < 0.0 { "after" } else { "before" };
        let inside = |path: &String| format!(" in {}", Printable(path));
        let inside = self.oom_cgroup.as_ref().map_or_else(String::new, inside);
        let _ = writeln!(text, "\nlargest processes{inside}, {:.1} s {when}:", before.abs());
        let mut largest = table(&["own MiB", "10 min", "pid", "adj", "name", "cgroup"]);
        for held in &self.largest {
            largest.add_row([
                mib(held.own_bytes),
                grown(held.growth),
                held.pid.to_string(),
                held.oom_score_adj.to_string(),
                held.comm.escape_debug().to_string(),
                held.place(),
            ]);
        }
        let _ = writeln!(text, "{largest}");
        if self.top_growers.is_empty() && self.growing_cgroups.is_empty() {
            let _ = writeln!(text, "\nnothing grew within the ten minutes before");
            return text;
        }
        let _ = writeln!(text, "\ngrew most within the ten minutes before:");
        let mut top_growers = table(&["10 min", "own MiB", "pid", "", "name", "cgroup"]);
        for held in &self.top_growers {
            top_growers.add_row([
                grown(held.growth),
                mib(held.own_bytes),
                held.pid.to_string(),
                String::new(),
                held.comm.escape_debug().to_string(),
                held.place(),
            ]);
        }
        for group in &self.growing_cgroups {
            let cells = [grown(group.growth), mib(group.own_bytes)];
            let none = [String::new(), String::new(), "(cgroup)".to_owned()];
            top_growers.add_row(cells.into_iter().chain(none).chain([group.place()]));
        }
        let _ = writeln!(text, "{top_growers}");
        text
    }
}

fn grown(growth: Growth) -> String {
    format!("{:+.1}", growth.ten_minutes_bytes as f64 / f64::from(1 << 20))
}

/// Numbers first; the last two columns are text.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header);
    let numbers = header.len().saturating_sub(2);
    for column in table.column_iter_mut().take(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use sensor_ebpf::event;

    use super::*;
    use crate::events::decode::{decode, tests::kill};

    fn event(what: EventKind) -> Event {
        Event { id: "b-1".into(), seq: 1, time: String::new(), what, report: None }
    }

    #[test]
    fn what_was_asked_for_is_told_only_where_it_was_measured() {
        let of = |kill: &event::OomKill| {
            let (_, mut what) = decode(bytemuck::bytes_of(kill), 4096, "b").expect("decodes");
            what.name_constraint(&[Some("none".into()), None, None, Some("memcg".into())]);
            event(what)
        };
        let json = |kill: &event::OomKill| serde_json::to_value(of(kill)).expect("serialises");
        let mut kill = kill(b"x");
        assert_eq!(json(&kill).get("context"), None);
        assert!(!of(&kill).to_string().contains("order"));
        (kill.has_context, kill.order, kill.gfp_flags, kill.constraint) = (1, -1, 0x10_0cca, 3);
        let context =
            serde_json::json!({ "order": -1, "gfp_flags": "0x100cca", "constraint": "memcg" });
        assert_eq!(json(&kill)["context"], context);
        let said = of(&kill).to_string();
        assert!(said.ends_with(", order -1, gfp 0x100cca, constraint memcg"), "{said}");
        kill.constraint = 7;
        assert_eq!(json(&kill)["context"]["constraint"], "7", "a name that BTF does not have");
    }

    #[test]
    fn no_escape_sequence_reaches_a_terminal() {
        let hostile = kill(b"\x1b[2J\"\n\\\xff\xc2\x9b31m");
        let (_, what) = decode(bytemuck::bytes_of(&hostile), 4096, "b").expect("decodes");
        let event = event(what);
        let shown = event.to_string();
        assert!(!shown.contains(|c: char| c.is_control()), "{shown:?}");
        let json = serde_json::to_string(&event).expect("serialises");
        assert!(!json.contains(|c: char| c.is_control()), "{json:?}");
        assert_eq!(serde_json::from_str::<Event>(&json).expect("parses"), event);
    }
}
