//! A bounded queue of events that is fair to cgroups: when it is full, the cgroup with the most
//! events loses its oldest. A container that is killed in a loop pushes out its own kills only.

use std::{collections::HashMap, sync::Arc};

use sensor_core::model::event::{Event, EventKind, TaskInfo};

/// What shares room in a queue: a pod, whose containers have a new cgroup after each restart, or a
/// cgroup.
pub(super) type Owner = Arc<str>;

/// Whose event it is; `None` for the exit of a victim, which belongs to the owner of its kill, and
/// for commands of operators.
pub(super) fn owner(kind: &EventKind) -> Option<Owner> {
    let of = |task: &TaskInfo| match (&task.workload.pod, &task.cgroup) {
        (Some(pod), _) => pod.as_str().into(),
        (None, Some(cgroup)) => Arc::clone(cgroup),
        (None, None) => task.cgroup_id.to_string().into(),
    };
    match kind {
        EventKind::OomKill { victim, .. } => Some(of(victim)),
        EventKind::KillSignal { target, .. } => Some(of(target)),
        EventKind::VictimExit { .. } | EventKind::Operator { .. } => None,
    }
}

/// Events, oldest first, with their owners.
#[derive(Debug)]
pub(super) struct EventQueue {
    max_events: usize,
    max_reports: usize,
    events: Vec<(Owner, Arc<Event>)>,
}

impl EventQueue {
    /// Keeps this many events, and the reports of this many of them.
    pub(super) fn new(max_events: usize, max_reports: usize) -> Self {
        Self { max_events, max_reports, events: Vec::with_capacity(max_events + 1) }
    }

    /// Adds an event.
    pub(super) fn push(&mut self, owner: Owner, event: Arc<Event>) {
        self.events.push((owner, event));
        // One push adds one event and one report at most.
        if self.events.len() > self.max_events
            && let Some(index) = self.oldest_of_largest(|_| true)
        {
            self.events.remove(index);
        }
        let has_report = |event: &Event| event.report.is_some();
        let reports = self.events.iter().filter(|(_, event)| has_report(event)).count();
        if reports > self.max_reports
            && let Some(index) = self.oldest_of_largest(has_report)
        {
            Arc::make_mut(&mut self.events[index].1).report = None;
        }
    }

    /// The oldest event among those of the owner that has the most; of two such owners, the older
    /// event. Only events that pass the filter count.
    fn oldest_of_largest(&self, filter: impl Fn(&Event) -> bool) -> Option<usize> {
        let counted = || self.events.iter().enumerate().filter(|(_, (_, event))| filter(event));
        let mut counts = HashMap::<&Owner, usize>::new();
        for (_, (owner, _)) in counted() {
            *counts.entry(owner).or_default() += 1;
        }
        let most = *counts.values().max()?;
        counted().find(|(_, (owner, _))| counts.get(owner) == Some(&most)).map(|(index, _)| index)
    }

    /// The owner of the event with this id, and the event.
    pub(super) fn find_mut(&mut self, id: &str) -> Option<(&Owner, &mut Arc<Event>)> {
        let found = self.events.iter_mut().rev().find(|(_, event)| event.id == id);
        found.map(|(owner, event)| (&*owner, event))
    }

    /// All events, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Event>> {
        self.events.iter().map(|(_, event)| event)
    }
}
