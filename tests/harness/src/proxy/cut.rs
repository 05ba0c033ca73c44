//! Where exactly in the bytes does a connection end?

use std::collections::HashMap;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// From client to server.
    Up,
    /// From server to client.
    Down,
}

/// Ends connections at an exact place. Bytes and writes of a connection are counted from when the cut was armed, or from
/// the connection's start if that came later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub side: Side,
    pub at: At,
    pub how: How,
    /// Of how many connections; [`u32::MAX`] for all that come.
    pub times: u32,
    /// Only of connections on which the client has sent this, in one piece: `start` but not `status`.
    pub only: Option<Vec<u8>>,
    /// Before it ends, the server is heard until it has said this, and the client does not hear it: between a COMMIT and
    /// its answer. Empty: anything at all. For cuts of what the client sends.
    pub answered: Option<Vec<u8>>,
}

/// The place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// After so many bytes, which are forwarded.
    Bytes(u64),
    /// At the n-th piece, which is not forwarded. A piece is what one read brought, and so nearly always one write.
    Piece(u64),
    /// After these bytes; what follows them is not forwarded.
    Through(Vec<u8>),
    /// After the piece that holds the end of these bytes.
    PieceWith(Vec<u8>),
}

/// How the client sees it end. To the server it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Close,
    Reset,
    /// It stays open and nothing moves any more, until [`super::Proxy::heal`].
    Stall,
}

impl Cut {
    /// Of the next connection that gets there, with a reset.
    #[must_use]
    pub fn new(side: Side, at: At) -> Self {
        Self {
            side,
            at,
            how: How::Reset,
            times: 1,
            only: None,
            answered: None,
        }
    }

    /// Once the server has said `answer`, which the client never hears.
    #[must_use]
    pub fn answered(mut self, answer: &[u8]) -> Self {
        self.answered = Some(answer.to_vec());
        self
    }

    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    #[must_use]
    pub fn only(mut self, sent: &[u8]) -> Self {
        self.only = Some(sent.to_vec());
        self
    }

    #[must_use]
    pub fn how(mut self, how: How) -> Self {
        self.how = how;
        self
    }
}

#[derive(Debug)]
pub(crate) struct Armed {
    pub(crate) id: u64,
    pub(crate) cut: Cut,
}

/// A cut that has come: what of the piece is still forwarded, and then how it ends.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) keep: usize,
    pub(crate) how: How,
    pub(crate) answered: Option<Vec<u8>>,
}

/// How far one direction of one connection is towards each cut.
#[derive(Debug, Default)]
pub(crate) struct Progress(HashMap<u64, Passed>);

#[derive(Debug, Default)]
struct Passed {
    bytes: u64,
    pieces: u64,
    finder: Finder,
}

impl Progress {
    /// Counts a piece; the first cut that it reaches is used up by one. `sent` says whether the client has sent something
    /// on this connection.
    pub(crate) fn pass(
        &mut self,
        armed: &mut Vec<Armed>,
        side: Side,
        piece: &[u8],
        sent: impl Fn(&[u8]) -> bool,
    ) -> Option<Due> {
        let mut due = None;
        for one in armed
            .iter_mut()
            .filter(|one| one.cut.side == side && one.cut.times > 0)
        {
            if one.cut.only.as_deref().is_some_and(|only| !sent(only)) {
                continue;
            }
            let passed = self.0.entry(one.id).or_default();
            passed.pieces += 1;
            let before = passed.bytes;
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            passed.bytes += length;
            let keep = match &one.cut.at {
                At::Bytes(at) => (passed.bytes >= *at)
                    .then(|| usize::try_from(at.saturating_sub(before)).unwrap_or(piece.len())),
                At::Piece(at) => (passed.pieces >= *at).then_some(0),
                At::Through(needle) => passed.finder.find(needle, piece),
                At::PieceWith(needle) => passed.finder.find(needle, piece).map(|_| piece.len()),
            };
            if let Some(keep) = keep {
                one.cut.times -= u32::from(one.cut.times != u32::MAX);
                due = Some(Due {
                    keep: keep.min(piece.len()),
                    how: one.cut.how,
                    answered: one.cut.answered.clone(),
                });
                break;
            }
        }
        armed.retain(|one| one.cut.times > 0);
        due
    }
}

/// Looks for bytes that may be spread over pieces.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    tail: Vec<u8>,
}

impl Finder {
    /// The length of the part of this piece through the end of the needle.
    pub(crate) fn find(&mut self, needle: &[u8], piece: &[u8]) -> Option<usize> {
        if needle.is_empty() {
            return Some(0);
        }
        let old = self.tail.len();
        self.tail.extend_from_slice(piece);
        let found = self
            .tail
            .windows(needle.len())
            .position(|window| window == needle)
            .map(|start| (start + needle.len()).saturating_sub(old));
        let keep = needle.len() - 1;
        self.tail.drain(..self.tail.len().saturating_sub(keep));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(progress: &mut Progress, armed: &mut Vec<Armed>, piece: &[u8]) -> Option<usize> {
        progress
            .pass(armed, Side::Up, piece, |_| true)
            .map(|due| due.keep)
    }

    fn armed(at: At) -> Vec<Armed> {
        vec![Armed {
            id: 1,
            cut: Cut::new(Side::Up, at),
        }]
    }

    #[test]
    fn what_is_looked_for_is_found_across_pieces() {
        let (mut progress, mut cuts) = (Progress::default(), armed(At::Through(b"COMMIT".to_vec())));
        assert_eq!(pass(&mut progress, &mut cuts, b"SELECT 1; COM"), None);
        assert_eq!(pass(&mut progress, &mut cuts, b"MIT; more"), Some(3));
        assert!(cuts.is_empty(), "it is used up");
    }

    #[test]
    fn bytes_are_counted_over_pieces_and_the_place_is_exact() {
        let (mut progress, mut cuts) = (Progress::default(), armed(At::Bytes(10)));
        assert_eq!(pass(&mut progress, &mut cuts, b"1234567"), None);
        assert_eq!(pass(&mut progress, &mut cuts, b"89abcdef"), Some(3));
    }

    #[test]
    fn the_nth_piece_is_not_forwarded() {
        let (mut progress, mut cuts) = (Progress::default(), armed(At::Piece(2)));
        assert_eq!(pass(&mut progress, &mut cuts, b"one"), None);
        assert_eq!(pass(&mut progress, &mut cuts, b"two"), Some(0));
    }
}
