//! What can go wrong, and is it for time or for a person to heal?

use kassa_event_store::StoreError;
use uuid::Uuid;

use crate::translate::TranslateError;

/// Why the relay cannot go on. [`RelayError::heals`] tells whether it tries again by itself.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error(
        "nats-server {version} with JetStream API level {level} cannot hold the events: run {} or newer, whose level \
         is at least {}",
        crate::stream::SERVER_MIN,
        crate::stream::API_LEVEL_MIN
    )]
    ServerTooOld { version: String, level: usize },
    #[error(
        "stream {stream} has {setting} = {found} where {wanted} was asked for: set it back with `nats stream edit`, \
         or change the configuration of kassa; nothing was changed"
    )]
    Drift {
        stream: String,
        /// As it is called on the wire.
        setting: String,
        wanted: String,
        found: String,
    },
    #[error(
        "stream {stream} ends with {last} and the store with {head}: either a message was put there that is no event, \
         or this is an older or another database; nothing was changed, a person must decide which one is right"
    )]
    Ahead { stream: String, last: i64, head: i64 },
    #[error(
        "stream {stream} holds {found} at {position} where the store has event {stored}: the stream was filled from \
         another history or by somebody else; nothing was changed, a person must decide which one is right"
    )]
    OtherContent {
        stream: String,
        position: i64,
        /// Its `Nats-Msg-Id`.
        found: String,
        stored: Uuid,
    },
    #[error(
        "stream {stream} took the event of position {position} as sequence {sequence} of {acknowledged_by}: its \
         subjects are shared or its fence is not enforced; the relay stopped before doing more of it"
    )]
    Misplaced {
        stream: String,
        acknowledged_by: String,
        position: i64,
        sequence: u64,
    },
    #[error(
        "the log has position {found} after {after}: a position is missing, so nothing after it was published"
    )]
    Gap { after: i64, found: i64 },
    #[error("position {0} is not a number that a log can have")]
    Position(i64),
    #[error(transparent)]
    Translate(TranslateError),
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    #[error("{doing} failed")]
    Bus {
        doing: &'static str,
        #[source]
        source: async_nats::Error,
    },
}

impl RelayError {
    pub(crate) fn bus(doing: &'static str) -> impl FnOnce(async_nats::Error) -> Self {
        move |source| Self::Bus { doing, source }
    }

    /// Whether the same step may succeed later with nobody's help.
    pub fn heals(&self) -> bool {
        match self {
            Self::Store(_) | Self::Bus { .. } => true,
            Self::ServerTooOld { .. }
            | Self::Drift { .. }
            | Self::Ahead { .. }
            | Self::OtherContent { .. }
            | Self::Misplaced { .. }
            | Self::Gap { .. }
            | Self::Position(_)
            | Self::Translate(_) => false,
        }
    }
}

impl From<TranslateError> for RelayError {
    fn from(error: TranslateError) -> Self {
        match error {
            TranslateError::Store(error) => Self::Store(error),
            other => Self::Translate(other),
        }
    }
}
