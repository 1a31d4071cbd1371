//! What happens to the hosts of a fleet: most are calm, some are short of memory for four minutes out of
//! fifteen. A pure function of the host and the time, so that a fleet needs no memory for its hosts.

/// Seconds after which the timeline begins anew.
const PERIOD: f64 = 900.0;
/// Seconds until the first host is in trouble.
const CALM: f64 = 60.0;
/// Seconds that trouble lasts.
const TROUBLE: f64 = 240.0;
/// Seconds into the trouble at which a host that drains does so.
const OVERLOADS: f64 = 30.0;
/// Seconds into the trouble at which a host that goes silent does so, for the rest of it.
const SILENT: f64 = 120.0;
/// Seconds between two OOM kills of a host that has some.
const BETWEEN_KILLS: f64 = 100.0;

/// Of fifty hosts, one each is not calm all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing happens.
    Calm,
    /// Loses weight.
    Degrades,
    /// ResourceUse itself out of service.
    Overloads,
    /// Drains, and then answers nobody.
    GoesSilent,
    /// Has OOM kills in a cgroup, and is fit all the same.
    Kills,
}

/// What a host's verdict is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Full weight.
    Ready,
    /// Some weight.
    Degraded,
    /// None.
    Overloaded,
}

impl State {
    /// As the label says it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Overloaded => "overloaded",
        }
    }
}

/// A host at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Which one.
    pub host: u32,
    /// Seconds since the fleet began.
    pub seconds: f64,
    /// Unix time.
    pub unix: f64,
    /// Seconds since the host booted.
    pub uptime: f64,
    /// Seconds of them in trouble.
    pub troubled: f64,
    /// How often trouble began, and ended.
    pub troubles: [u32; 2],
    /// OOM kills so far.
    pub kills: u32,
    /// The verdict.
    pub state: State,
    /// Nobody answers.
    pub silent: bool,
    /// From 0 to 1: what makes this host unlike the next.
    pub character: f64,
}

/// What a host is like.
pub fn kind(host: u32) -> Kind {
    match host % 50 {
        7 => Kind::Degrades,
        19 => Kind::Overloads,
        31 => Kind::GoesSilent,
        43 => Kind::Kills,
        _ => Kind::Calm,
    }
}

/// How a host is, so many seconds after the fleet began.
pub fn moment(host: u32, seconds: f64, unix: f64) -> Moment {
    let kind = kind(host);
    let character = f64::from((host.wrapping_mul(2_654_435_761) >> 16) & 0xffff) / 65_536.0;
    // Not all at once.
    let since = (seconds - CALM - f64::from(host * 13 % 60)).max(-1.0);
    let (rounds, into) = if since < 0.0 {
        (0.0, -1.0)
    } else {
        ((since / PERIOD).floor(), since.rem_euclid(PERIOD))
    };
    let in_trouble = (0.0..TROUBLE).contains(&into);
    let suffers = matches!(kind, Kind::Degrades | Kind::Overloads | Kind::GoesSilent);
    let state = match kind {
        _ if !(suffers && in_trouble) => State::Ready,
        Kind::Overloads | Kind::GoesSilent if into >= OVERLOADS => State::Overloaded,
        _ => State::Degraded,
    };
    let troubled = if suffers { rounds * TROUBLE + into.clamp(0.0, TROUBLE) } else { 0.0 };
    let begun = if suffers { rounds + f64::from(u8::from(into >= 0.0)) } else { 0.0 };
    let ended = begun - f64::from(u8::from(suffers && in_trouble));
    let kills = if kind == Kind::Kills { (seconds / BETWEEN_KILLS).floor() } else { 0.0 };
    Moment {
        host,
        seconds,
        unix,
        uptime: 86_400.0 + character * 1e6 + seconds,
        troubled,
        troubles: [whole(begun), whole(ended)],
        kills: whole(kills),
        state,
        silent: kind == Kind::GoesSilent && in_trouble && into >= SILENT,
        character,
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of minutes and hours, never negative"
)]
fn whole(number: f64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_fifty_hosts_each_kind_of_trouble_has_one() {
        for trouble in [Kind::Degrades, Kind::Overloads, Kind::GoesSilent, Kind::Kills] {
            assert_eq!((0..50).filter(|h| kind(*h) == trouble).count(), 1, "{trouble:?}");
        }
    }

    #[test]
    fn who_goes_silent_was_draining_and_comes_back() {
        let seen: Vec<_> = (0..600).map(|t| moment(31, f64::from(t), 0.0)).collect();
        let first = seen.iter().position(|m| m.silent).expect("silent");
        assert_eq!(seen[first - 1].state, State::Overloaded);
        let last = seen.iter().rposition(|m| m.silent).expect("silent");
        assert_eq!((seen[last + 1].state, seen[0].state), (State::Ready, State::Ready));
        assert!(last - first > 100, "{first} {last}");
    }

    #[test]
    fn what_is_counted_never_falls() {
        for host in [0, 7, 19, 31, 43] {
            let mut before = moment(host, 0.0, 0.0);
            for t in 1..4000 {
                let now = moment(host, f64::from(t), 0.0);
                assert!(
                    now.troubled >= before.troubled
                        && now.kills >= before.kills
                        && now.troubles[0] >= before.troubles[0]
                        && now.troubles[1] >= before.troubles[1],
                    "{before:?} {now:?}"
                );
                before = now;
            }
        }
    }
}
