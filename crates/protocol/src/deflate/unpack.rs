//! What clients send compressed, made whole: bounded in size and in how much it grows.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};

use super::{TAIL, figures};

/// How much larger a message may become. Text of one letter grows a thousandfold, rows of a table ten- to fiftyfold.
const MAX_RATIO: usize = 256;

/// A message may become this large however small it was, in bytes: such a one does no harm.
const FREE: usize = 64 * 1024;

/// Least room for what comes out, in bytes.
const LEAST_ROOM: usize = 1024;

/// Room that is made before anything is known to come, as a multiple of what went in.
const EXPECTED_RATIO: usize = 4;

thread_local! {
    /// Made at the first message: most threads of most servers inflate nothing.
    static INFLATER: RefCell<Option<Decompress>> = const { RefCell::new(None) };
}

/// Why a message cannot be inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It is not what RFC 1951 describes.
    #[error("Malformed compressed data")]
    Malformed,
    /// It becomes larger than it may.
    #[error("Compressed message becomes too large")]
    TooLarge,
}

/// How large a compressed message of this many bytes may become.
#[must_use]
pub fn most(packed: usize) -> usize {
    packed.saturating_mul(MAX_RATIO).max(FREE)
}

/// Inflates a whole message, to `most` bytes at most. Work and memory are linear in what comes out, whatever goes in.
///
/// # Errors
/// If it is malformed, or becomes larger than `most`: then it was not inflated further than that.
pub fn unpack(packed: &[u8], most: usize) -> Result<Vec<u8>, UnpackError> {
    INFLATER.with_borrow_mut(|inflater| {
        let inflater = inflater.get_or_insert_with(|| Decompress::new(false));
        inflater.reset(false);
        let mut out = Vec::new();
        reserve(&mut out, packed.len().saturating_mul(EXPECTED_RATIO), most);
        if inflate(inflater, packed, &mut out, most)? {
            inflate(inflater, &TAIL, &mut out, most)?;
        }
        figures::count_unpacked(packed.len(), out.len());
        // A message may wait for long.
        out.shrink_to_fit();
        Ok(out)
    })
}

/// Inflates a part. Returns whether more may come.
fn inflate(
    inflater: &mut Decompress,
    mut input: &[u8],
    out: &mut Vec<u8>,
    most: usize,
) -> Result<bool, UnpackError> {
    loop {
        if out.len() == out.capacity() {
            let more = out.len();
            reserve(out, more, most);
        }
        let before = inflater.total_in();
        let status = inflater.decompress_vec(input, out, FlushDecompress::Sync);
        let status = status.map_err(|_| UnpackError::Malformed)?;
        if out.len() > most {
            return Err(UnpackError::TooLarge);
        }
        let taken = usize::try_from(inflater.total_in() - before).unwrap_or(usize::MAX);
        input = input.get(taken..).ok_or(UnpackError::Malformed)?;
        if status == Status::StreamEnd {
            // A last block ends a message too. Behind it stands the beginning of an empty one (RFC 7692 7.2.3.4), or nothing.
            return if matches!(input, [] | [0]) { Ok(false) } else { Err(UnpackError::Malformed) };
        }
        if out.len() < out.capacity() {
            return if input.is_empty() { Ok(true) } else { Err(UnpackError::Malformed) };
        }
    }
}

/// Makes room for so many bytes more: never for more than one byte above `most`, which shows that there are too many.
fn reserve(out: &mut Vec<u8>, more: usize, most: usize) {
    let room = most.saturating_add(1).saturating_sub(out.len());
    out.reserve_exact(more.max(LEAST_ROOM).min(room));
}
