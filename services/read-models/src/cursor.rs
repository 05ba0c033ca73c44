//! Where does the next page begin? A place in the list that says which list it belongs to, so that it is not used on
//! another. It is no secret and no proof: whoever makes one up sees no more than his own shop's orders.

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

/// Bytes of the sum: against slips of the pen, not against anybody.
const SUM: usize = 8;

/// The place after a row; `scope` is the list, with its filters.
pub(crate) fn write(scope: &str, created_at: Timestamp, order_id: &str) -> String {
    let micros = created_at.as_microsecond().to_be_bytes();
    let place = [&micros[..], order_id.as_bytes()].concat();
    data_encoding::BASE64URL_NOPAD.encode(&[&sum(scope, &place)[..], &place].concat())
}

/// `None` where it was not made for this list.
pub(crate) fn read(scope: &str, text: &str) -> Option<(Timestamp, String)> {
    let bytes = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    let (told, place) = bytes.split_at_checked(SUM)?;
    if sum(scope, place) != told {
        return None;
    }
    let (micros, id) = place.split_first_chunk::<8>()?;
    let created_at = Timestamp::from_microsecond(i64::from_be_bytes(*micros)).ok()?;
    Some((created_at, String::from_utf8(id.to_vec()).ok()?))
}

fn sum(scope: &str, place: &[u8]) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(scope.as_bytes());
    hash.update([0]);
    hash.update(place);
    hash.finalize()[..SUM].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_belongs_to_its_list_and_bears_no_change() {
        let at = Timestamp::from_microsecond(1_764_000_000_123_456).expect("a time");
        let text = write("demo-shop paid", at, "ord_1");
        assert_eq!(read("demo-shop paid", &text), Some((at, "ord_1".to_owned())));
        assert_eq!(read("demo-shop open", &text), None);
        assert_eq!(read("other-shop paid", &text), None);
        let mut forged = text.clone().into_bytes();
        forged[14] ^= 1;
        assert_eq!(
            read("demo-shop paid", &String::from_utf8(forged).expect("ASCII")),
            None
        );
        for wrong in ["", "x", "0-12", &text[..10], "%00"] {
            assert_eq!(read("demo-shop paid", wrong), None, "{wrong}");
        }
    }
}
