//! What happens to the hosts of a fleet: most are calm, some are short of memory for four minutes
//! out of fifteen. A pure function of host and time, so that a fleet stores nothing per host.

/// Seconds after which the timeline repeats.
const PERIOD: f64 = 900.0;
/// Seconds until the first host is short of memory.
const CALM: f64 = 60.0;
/// Seconds that a shortage lasts.
const SHORTAGE: f64 = 240.0;
/// Seconds into a shortage after which a host is overloaded.
const OVERLOADED_AFTER: f64 = 30.0;
/// Seconds into a shortage after which a host goes silent, until the shortage ends.
const SILENT_AFTER: f64 = 120.0;
/// Seconds between OOM kills of a host of [`Kind::Kills`].
const BETWEEN_KILLS: f64 = 100.0;

/// The behaviour of a host. Of fifty hosts, one is of each kind but `Calm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing happens.
    Calm,
    /// Is degraded in a shortage.
    Degrades,
    /// ResourceUse itself out of service.
    Overloads,
    /// Is overloaded, then does not respond.
    GoesSilent,
    /// Has OOM kills in a cgroup, and stays ready.
    Kills,
}

/// The verdict of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Full weight.
    Ready,
    /// Reduced weight.
    Degraded,
    /// Weight 0.
    Overloaded,
}

impl State {
    /// Value of the label `state`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Overloaded => "overloaded",
        }
    }
}

/// A host at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Number of the host.
    pub host: u32,
    /// Seconds since the fleet began.
    pub seconds: f64,
    /// Unix time.
    pub unix: f64,
    /// Seconds since the host booted.
    pub uptime: f64,
    /// Seconds of shortage since then.
    pub shortage_seconds: f64,
    /// How many shortages began, and ended.
    pub shortages: [u32; 2],
    /// OOM kills so far.
    pub kills: u32,
    /// The verdict.
    pub state: State,
    /// It does not respond.
    pub silent: bool,
    /// From 0 to 1: a constant that differs between hosts.
    pub character: f64,
}

/// The kind of a host.
pub fn kind(host: u32) -> Kind {
    match host % 50 {
        7 => Kind::Degrades,
        19 => Kind::Overloads,
        31 => Kind::GoesSilent,
        43 => Kind::Kills,
        _ => Kind::Calm,
    }
}

/// The state of a host, so many seconds after the fleet began.
pub fn moment(host: u32, seconds: f64, unix: f64) -> Moment {
    let kind = kind(host);
    let character = f64::from((host.wrapping_mul(2_654_435_761) >> 16) & 0xffff) / 65_536.0;
    // Hosts begin at different times.
    let since = (seconds - CALM - f64::from(host * 13 % 60)).max(-1.0);
    let (rounds, into) = if since < 0.0 {
        (0.0, -1.0)
    } else {
        ((since / PERIOD).floor(), since.rem_euclid(PERIOD))
    };
    let in_shortage = (0.0..SHORTAGE).contains(&into);
    let has_shortages = matches!(kind, Kind::Degrades | Kind::Overloads | Kind::GoesSilent);
    let state = match kind {
        _ if !(has_shortages && in_shortage) => State::Ready,
        Kind::Overloads | Kind::GoesSilent if into >= OVERLOADED_AFTER => State::Overloaded,
        _ => State::Degraded,
    };
    let shortage_seconds =
        if has_shortages { rounds * SHORTAGE + into.clamp(0.0, SHORTAGE) } else { 0.0 };
    let begun = if has_shortages { rounds + f64::from(u8::from(into >= 0.0)) } else { 0.0 };
    let ended = begun - f64::from(u8::from(has_shortages && in_shortage));
    let kills = if kind == Kind::Kills { (seconds / BETWEEN_KILLS).floor() } else { 0.0 };
    Moment {
        host,
        seconds,
        unix,
        uptime: 86_400.0 + character * 1e6 + seconds,
        shortage_seconds,
        shortages: [whole(begun), whole(ended)],
        kills: whole(kills),
        state,
        silent: kind == Kind::GoesSilent && in_shortage && into >= SILENT_AFTER,
        character,
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts far below 2^32, never negative"
)]
pub(super) fn whole(number: f64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_fifty_hosts_one_is_of_each_kind() {
        for wanted in [Kind::Degrades, Kind::Overloads, Kind::GoesSilent, Kind::Kills] {
            assert_eq!((0..50).filter(|h| kind(*h) == wanted).count(), 1, "{wanted:?}");
        }
    }

    #[test]
    fn a_silent_host_was_overloaded_before_and_is_ready_after() {
        let seen: Vec<_> = (0..600).map(|t| moment(31, f64::from(t), 0.0)).collect();
        let first = seen.iter().position(|m| m.silent).expect("silent");
        assert_eq!(seen[first - 1].state, State::Overloaded);
        let last = seen.iter().rposition(|m| m.silent).expect("silent");
        assert_eq!((seen[last + 1].state, seen[0].state), (State::Ready, State::Ready));
        assert!(last - first > 100, "{first} {last}");
    }

    #[test]
    fn counters_never_decrease() {
        for host in [0, 7, 19, 31, 43] {
            let mut before = moment(host, 0.0, 0.0);
            for t in 1..4000 {
                let now = moment(host, f64::from(t), 0.0);
                assert!(
                    now.shortage_seconds >= before.shortage_seconds
                        && now.kills >= before.kills
                        && now.shortages[0] >= before.shortages[0]
                        && now.shortages[1] >= before.shortages[1],
                    "{before:?} {now:?}"
                );
                before = now;
            }
        }
    }
}
