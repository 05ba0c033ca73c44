//! How do many appends share one commit? Whatever arrives while a flight is under way makes up the next one. A flight is
//! pipelined on one connection: begin, lock the head, append, commit.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::FuturesOrdered};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    append::{Append, AppendError, Appended},
    flight::{Connection, Crash, Landed, fly},
    hints::{Bells, Written},
};

/// Requests in one flight: beyond it a commit is no longer what costs.
const BATCH_MAX: usize = 512;
/// Bytes in one flight, so that one statement stays a few milliseconds.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Callers waiting: some eight full flights, a few tenths of a second of work.
pub(crate) const QUEUE_MAX: usize = 4_096;
/// How long an append is carried over a database that is away; a requester's patience is longer.
const PATIENCE: Duration = Duration::from_secs(4);
/// Flights that one append may fail in by no fault of its own.
const TRIES_MAX: u32 = 5;

/// Flights on one connection at once: while one is committed and its callers hear of it, the next is with the server already.
const IN_THE_AIR_MAX: usize = 2;

pub(crate) struct Waiting {
    pub(crate) append: Append,
    pub(crate) answer: oneshot::Sender<Result<Appended, AppendError>>,
    pub(crate) since: Instant,
    pub(crate) tries: u32,
    /// It held up a flight: from then on it has one to itself.
    pub(crate) alone: bool,
}

/// Appends of one part, on their way.
struct Lane {
    waiting: VecDeque<Waiting>,
    connection: Option<Arc<Connection>>,
    air: FuturesOrdered<Pin<Box<dyn Future<Output = Landed> + Send>>>,
    /// Requests in each flight of `air`.
    aboard: VecDeque<usize>,
    /// Nobody lost in the last flight: the next one is tried as if all of it wins.
    hopeful: bool,
    bells: Bells,
}

/// Serves the appends of one part until every caller is gone.
pub(crate) async fn run(url: String, role: Option<String>, mut queue: mpsc::Receiver<Waiting>, bells: Bells) {
    let mut lane = Lane {
        waiting: VecDeque::new(),
        connection: None,
        air: FuturesOrdered::new(),
        aboard: VecDeque::new(),
        hopeful: true,
        bells,
    };
    let mut open = true;
    loop {
        if lane.waiting.is_empty() && lane.air.is_empty() {
            match queue.recv().await {
                Some(next) => lane.waiting.push_back(next),
                None => return,
            }
        }
        while lane.waiting.len() < QUEUE_MAX
            && let Ok(next) = queue.try_recv()
        {
            lane.waiting.push_back(next);
        }
        if lane.may_take_off() {
            if lane.connection.as_ref().is_none_or(|c| c.is_closed()) {
                // What is still in the air on the old one lands first, if only to be put back.
                if lane.air.is_empty()
                    && let Err(why) = lane.connect(&url, role.as_deref()).await
                {
                    give_up_on_old(&mut lane.waiting, &why, PATIENCE);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            }
            lane.take_off();
        }
        tokio::select! {
            // Polled first, so that a flight is sent before anything else is heard.
            biased;
            Some(landed) = lane.air.next() => {
                lane.land(landed);
                // Those who were just answered ask again: a turn for them makes the next flight a full one.
                tokio::task::yield_now().await;
            }
            next = queue.recv(), if open && lane.waiting.len() < QUEUE_MAX && !lane.air.is_empty() => match next {
                Some(next) => lane.waiting.push_back(next),
                None => open = false,
            },
            else => {}
        }
    }
}

impl Lane {
    /// A second flight only if it carries as many as the one before it: a few would cost a commit of their own, and gain
    /// little.
    fn may_take_off(&self) -> bool {
        match self.aboard.back() {
            _ if self.waiting.is_empty() => false,
            None => true,
            Some(before) => self.aboard.len() < IN_THE_AIR_MAX && self.waiting.len() >= *before,
        }
    }

    async fn connect(&mut self, url: &str, role: Option<&str>) -> Result<(), String> {
        self.connection = None;
        self.connection = Some(Arc::new(Connection::open(url, role).await?));
        Ok(())
    }

    fn take_off(&mut self) {
        let Some(connection) = self.connection.clone().filter(|c| !c.is_closed()) else {
            return;
        };
        let batch = pick(&mut self.waiting);
        let ahead = self.air.len();
        self.aboard.push_back(batch.len());
        self.air
            .push_back(Box::pin(fly(connection, batch, self.hopeful, ahead)));
    }

    /// Answers the callers, and puts back what has to fly again.
    fn land(&mut self, landed: Landed) {
        self.aboard.pop_front();
        let Landed { batch, result } = landed;
        match result {
            Ok(results) => {
                let written = written(&batch);
                let reads = batch.iter().any(|one| !one.append.reads.is_empty());
                self.hopeful = batch.len() == results.len()
                    && results
                        .values()
                        .all(|result| matches!(result, Appended::Stored { .. }));
                answer(batch, results);
                self.bells.ring(&written, reads);
                if let Some(connection) = &self.connection {
                    connection.notify(&self.bells.notify(&written, reads));
                }
            }
            Err(Crash::Refused {
                why,
                passing,
                by_statement,
            }) => self.refused(batch, &why, passing, by_statement),
            Err(Crash::NoPart) => {
                for one in batch {
                    let part = one.append.part;
                    let _ = one.answer.send(Err(AppendError::WrongPart { part }));
                }
            }
            Err(Crash::Lost(why)) => {
                tracing::warn!(why, appends = batch.len(), "the appending connection was lost");
                for one in batch.into_iter().rev() {
                    again(one, &mut self.waiting, &why);
                }
                give_up_on_old(&mut self.waiting, &why, PATIENCE);
                // Only a new one can tell what became of it.
                if let Some(connection) = self.connection.take() {
                    connection.give_up();
                }
            }
        }
    }

    fn refused(&mut self, batch: Vec<Waiting>, why: &str, passing: bool, by_statement: bool) {
        if batch.len() > 1 && by_statement {
            // One of them is at fault, or waits for a row that somebody holds; its neighbours must not suffer. Each
            // flies alone, and before all others.
            for mut one in batch.into_iter().rev() {
                one.alone = true;
                self.waiting.push_front(one);
            }
            return;
        }
        for mut one in batch.into_iter().rev() {
            one.alone |= by_statement;
            if passing {
                again(one, &mut self.waiting, why);
            } else {
                let _ = one.answer.send(Err(AppendError::Refused(why.to_owned())));
            }
        }
        if passing {
            // Those behind have waited as long, and would wait for one flight more each; but not those who were in the same
            // flight and have not had one to themselves yet: the rows that are held may not be theirs.
            let all = std::mem::take(&mut self.waiting).into_iter();
            let (mut first, mut behind): (VecDeque<_>, VecDeque<_>) =
                all.partition(|one| one.alone && one.tries == 0);
            // What was refused by itself says nothing of those behind it: they are let be for one such more.
            let patience = if by_statement { PATIENCE * 2 } else { PATIENCE };
            give_up_on_old(&mut behind, why, patience);
            first.append(&mut behind);
            self.waiting = first;
        }
    }
}

fn give_up_on_old(waiting: &mut VecDeque<Waiting>, why: &str, patience: Duration) {
    let kept = waiting.drain(..).filter_map(|one| {
        if one.since.elapsed() < patience {
            return Some(one);
        }
        let _ = one.answer.send(Err(AppendError::Unavailable(why.to_owned())));
        None
    });
    let kept: VecDeque<_> = kept.collect();
    *waiting = kept;
}

/// The next flight, oldest first: one part, a command once, and no stream that another request of it writes.
fn pick(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let Some(part) = waiting.front().map(|one| one.append.part) else {
        return vec![];
    };
    let mut batch = Vec::new();
    let mut rest = VecDeque::new();
    let mut commands = HashSet::new();
    // Whether a stream is written in this flight, for every stream that is touched in it or passed over.
    let mut streams: HashMap<Uuid, bool> = HashMap::new();
    let mut bytes = 0;
    for one in waiting.drain(..) {
        let size = one.append.bytes();
        let clear = |streams: &HashMap<Uuid, bool>| {
            one.append
                .touches
                .iter()
                .all(|touch| match streams.get(&touch.stream_id) {
                    None => true,
                    Some(written) => !written && !one.append.writes(touch.stream_id),
                })
        };
        let fits = one.append.part == part
            && (batch.is_empty() || !one.alone && !batch.iter().any(|other: &Waiting| other.alone))
            && batch.len() < BATCH_MAX
            && (batch.is_empty() || bytes + size <= BATCH_BYTES_MAX)
            && clear(&streams)
            && commands.insert(one.append.command_id);
        for touch in &one.append.touches {
            // One that waits keeps its turn: nobody may pass it on its streams.
            let written = !fits || one.append.writes(touch.stream_id);
            *streams.entry(touch.stream_id).or_insert(written) |= written;
        }
        if fits {
            bytes += size;
            batch.push(one);
        } else {
            rest.push_back(one);
        }
    }
    *waiting = rest;
    batch
}

/// Puts an append back, as long as its caller may be waiting: to the front, or behind all others if it holds them up.
fn again(mut one: Waiting, waiting: &mut VecDeque<Waiting>, why: &str) {
    one.tries += 1;
    if one.tries > TRIES_MAX || one.since.elapsed() > PATIENCE {
        let _ = one.answer.send(Err(AppendError::Unavailable(why.to_owned())));
    } else if one.alone {
        waiting.push_back(one);
    } else {
        waiting.push_front(one);
    }
}

fn answer(batch: Vec<Waiting>, mut results: HashMap<Uuid, Appended>) {
    for one in batch {
        let result = results
            .remove(&one.append.command_id)
            .ok_or(AppendError::Conflict);
        // A caller that left meets the stored outcome at its next try.
        let _ = one.answer.send(result);
    }
}

/// The streams that the batch wrote to, or would have; a hint too many costs a look.
fn written(batch: &[Waiting]) -> Written {
    let events = batch.iter().flat_map(|one| &one.append.events);
    let streams: HashSet<Uuid> = events.map(|event| event.stream_id).collect();
    if streams.is_empty() {
        Written::Nothing
    } else {
        Written::Streams(streams.into_iter().collect())
    }
}
