//! Reading fields off a message.

use bytes::{Buf, Bytes};

use super::error::DecodeError;
use crate::Lsn;

/// What is left of a message.
pub(super) struct Reader(Bytes);

impl Reader {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(super) fn remaining(&self) -> usize {
        self.0.len()
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.0.try_get_u8().map_err(|_| DecodeError::Truncated(what))
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.0.try_get_u16().map_err(|_| DecodeError::Truncated(what))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.0.try_get_u32().map_err(|_| DecodeError::Truncated(what))
    }

    pub(super) fn i32(&mut self, what: &'static str) -> Result<i32, DecodeError> {
        self.0.try_get_i32().map_err(|_| DecodeError::Truncated(what))
    }

    pub(super) fn i64(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        self.0.try_get_i64().map_err(|_| DecodeError::Truncated(what))
    }

    pub(super) fn lsn(&mut self, what: &'static str) -> Result<Lsn, DecodeError> {
        self.0.try_get_u64().map(Lsn).map_err(|_| DecodeError::Truncated(what))
    }

    pub(super) fn bytes(&mut self, len: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        if len > self.0.len() { Err(DecodeError::Truncated(what)) } else { Ok(self.0.split_to(len)) }
    }

    /// Bytes after their 32-bit length.
    pub(super) fn sized(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let len = self.u32(what)?;
        self.bytes(len as usize, what)
    }

    /// A string that ends with a zero byte.
    pub(super) fn string(&mut self) -> Result<Box<str>, DecodeError> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(DecodeError::Truncated("string"))?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        std::str::from_utf8(&text).map(Into::into).map_err(|_| DecodeError::NotUtf8)
    }
}
