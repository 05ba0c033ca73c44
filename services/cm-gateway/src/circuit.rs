//! Is it worth calling CM now? After calls that were not served, or several in a row without an answer, nobody calls for a
//! while; then one does, to find out. Orders wait meanwhile: what CM cannot be asked has not failed.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Calls in a row without an answer that open it: fewer is one shopper's bad luck.
const FAILURES: u32 = 8;
/// The first pause after them. A restart of CM's front takes seconds.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Pauses double up to this: how long after CM is back the first shopper still waits.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// How long starts stay behind reads when a pause is over: what was paid is learned before anything new is asked for.
const READS_FIRST: Duration = Duration::from_millis(300);

/// What is to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Without effect.
    Read,
    /// A create or a start.
    Effect,
}

/// How a call ended, as far as it says something of CM as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// Answered, whatever the answer: CM is there.
    Yes,
    /// Not reached, or no answer, or a server's error.
    No,
    /// CM or its front said when to come again.
    Later(Duration),
}

#[derive(Debug, Default)]
pub(crate) struct Circuit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Nobody calls before; `None` while all is well.
    shut_until: Option<Instant>,
    /// How long the last pause was.
    pause: Duration,
    /// Somebody is finding out.
    probing: bool,
}

impl Circuit {
    /// Whether to call now; otherwise how long to wait. Whoever is let through after a pause finds out for all: `patience`
    /// is how long the others wait for that.
    pub(crate) fn enter(&self, call: Call, now: Instant, patience: Duration) -> Result<(), Duration> {
        let mut state = self.state();
        let Some(until) = state.shut_until else {
            return Ok(());
        };
        let from = match call {
            Call::Read => until,
            Call::Effect => until + READS_FIRST,
        };
        if now < from {
            return Err(from - now);
        }
        state.probing = true;
        state.shut_until = Some(now + patience);
        Ok(())
    }

    /// A call has ended. The length of the pause that begins with it, if one does.
    pub(crate) fn ended(&self, served: Served, now: Instant) -> Option<Duration> {
        let mut state = self.state();
        let shut = state.shut_until.is_some();
        let pause = match served {
            // What was under way when it shut says nothing new: CM's own time is kept, whatever an earlier call came to.
            _ if shut && !state.probing => return None,
            Served::Yes => {
                *state = State::default();
                return None;
            }
            Served::Later(wait) => wait,
            Served::No => {
                state.failures += 1;
                if state.failures < FAILURES && !state.probing {
                    return None;
                }
                (state.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX)
            }
        };
        state.pause = pause.min(PAUSE_MAX);
        state.probing = false;
        state.shut_until = Some(now + pause);
        Some(pause)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held left it whole: every change to it is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(4);

    fn shut(circuit: &Circuit, now: Instant) -> Duration {
        (0..FAILURES)
            .find_map(|_| circuit.ended(Served::No, now))
            .expect("it shuts")
    }

    #[test]
    fn an_earlier_call_that_succeeds_does_not_cut_short_the_time_that_cm_asked_for() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        let asked = Duration::from_secs(120);
        assert_eq!(circuit.ended(Served::Later(asked), now), Some(asked));
        circuit.ended(Served::Yes, now);
        assert_eq!(circuit.enter(Call::Read, now, PATIENCE), Err(asked));
    }

    #[test]
    fn a_few_calls_without_an_answer_stop_nobody_and_an_answer_forgets_them() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        for _ in 0..3 {
            for _ in 1..FAILURES {
                assert_eq!(circuit.ended(Served::No, now), None);
            }
            assert_eq!(circuit.enter(Call::Effect, now, PATIENCE), Ok(()));
            circuit.ended(Served::Yes, now);
        }
    }

    #[test]
    fn after_a_pause_one_call_finds_out_and_reads_come_before_starts() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        assert_eq!(shut(&circuit, now), PAUSE_MIN);
        assert_eq!(circuit.enter(Call::Read, now, PATIENCE), Err(PAUSE_MIN));
        let over = now + PAUSE_MIN;
        assert_eq!(circuit.enter(Call::Effect, over, PATIENCE), Err(READS_FIRST));
        assert_eq!(circuit.enter(Call::Read, over, PATIENCE), Ok(()));
        assert_eq!(circuit.enter(Call::Read, over, PATIENCE), Err(PATIENCE));
        // It found nobody: twice as long. What was still under way since before does not count again.
        assert_eq!(circuit.ended(Served::No, over), Some(2 * PAUSE_MIN));
        assert_eq!(circuit.ended(Served::No, over), None);
        let over = over + 2 * PAUSE_MIN + READS_FIRST;
        assert_eq!(circuit.enter(Call::Effect, over, PATIENCE), Ok(()));
        circuit.ended(Served::Yes, over);
        assert_eq!(circuit.enter(Call::Read, over, PATIENCE), Ok(()));
        assert_eq!(circuit.enter(Call::Effect, over, PATIENCE), Ok(()));
    }

    #[test]
    fn pauses_grow_to_a_bound_and_a_lost_finder_out_stops_nobody_for_long() {
        let (circuit, mut now) = (Circuit::default(), Instant::now());
        let mut pause = shut(&circuit, now);
        for _ in 0..10 {
            now += pause;
            assert_eq!(circuit.enter(Call::Read, now, PATIENCE), Ok(()));
            pause = circuit.ended(Served::No, now).expect("still nobody");
        }
        assert_eq!(pause, PAUSE_MAX);
        now += pause;
        assert_eq!(circuit.enter(Call::Read, now, PATIENCE), Ok(()));
        // It never came back.
        assert_eq!(circuit.enter(Call::Read, now + PATIENCE, PATIENCE), Ok(()));
    }

    #[test]
    fn f_67_what_cm_asks_for_is_honoured_at_once() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        let wait = Duration::from_secs(120);
        assert_eq!(circuit.ended(Served::Later(wait), now), Some(wait));
        assert_eq!(circuit.enter(Call::Read, now, PATIENCE), Err(wait));
        assert_eq!(
            circuit.enter(Call::Effect, now, PATIENCE),
            Err(wait + READS_FIRST)
        );
        assert_eq!(circuit.enter(Call::Read, now + wait, PATIENCE), Ok(()));
    }
}
