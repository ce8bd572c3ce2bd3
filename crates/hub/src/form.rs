//! Compressed forms of messages.

use realtime_protocol::Vsn;

use crate::outbox::Outbox;

/// Number of forms.
pub(crate) const PACKED: usize = Form::ALL.len();

/// A serializer whose messages can be compressed. Transports without WebSocket frames have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    V1,
    V2,
}

impl Form {
    /// All, in the order of their numbers.
    pub(crate) const ALL: [Self; 2] = [Self::V1, Self::V2];

    /// The form that a socket takes, if it takes compressed messages.
    pub(crate) fn of(vsn: Vsn, outbox: &Outbox) -> Option<Self> {
        match vsn {
            _ if outbox.packs_from() == usize::MAX => None,
            Vsn::V1 => Some(Self::V1),
            Vsn::V2 => Some(Self::V2),
            Vsn::V2Text | Vsn::Events => None,
        }
    }

    pub(crate) const fn vsn(self) -> Vsn {
        match self {
            Self::V1 => Vsn::V1,
            Self::V2 => Vsn::V2,
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}
