use proptest::prelude::*;

use super::*;

const LEGACY_KEY: &str = "supabaserealtime";
const GCM_KEY: &str = "0123456789abcdef0123456789abcdef";

fn ciphers(write_gcm: bool) -> Ciphers {
    Ciphers::new(Some(&LEGACY_KEY.into()), Some(&GCM_KEY.into()), write_gcm).unwrap()
}

fn decrypt(ciphers: &Ciphers, value: &str) -> Result<String, CipherError> {
    ciphers.decrypt(&Ciphertext::new(value)).map(|plain| plain.expose_secret().to_owned())
}

/// Made with `openssl enc -aes-128-ecb -K … -base64`, and with `AESGCM` of Python's `cryptography` and the nonce
/// 00 01 … 0b.
const KNOWN: [(&str, &str, &str); 7] = [
    ("", "Tza64ZmuiPJ3dvLf5raOPw==", "g1:AAECAwQFBgcICQoLUZJP08yieN3vntriEyAWqg=="),
    ("127.0.0.1", "7DdgtSK7rYs2fSvlK2dwYA==", "g1:AAECAwQFBgcICQoLg+Y2FGdOa5Lt87EPZ3qlRhzXjFLpNuKCmQ=="),
    (
        "fifteen bytes 1",
        "kxSlalXxHDo5qhkN0fMqdg==",
        "g1:AAECAwQFBgcICQoLh7FELAGE+3OEK89Ti37NqEuM3Qi8fbyMyqUF2wLv4A==",
    ),
    (
        "sixteen bytes 12",
        "1ZWpHA9TWMxbZuTnpLj6gE82uuGZrojyd3by3+a2jj8=",
        "g1:AAECAwQFBgcICQoLixBJpZ7K1M6cAyNfRnmop16Mwwi8fbyMyqUF2wLv4DY=",
    ),
    (
        "seventeen bytes 3",
        "uVOJyCFD392+ZKQ6lubT0jkhGy3eB1sNRbXEm7L2qwk=",
        "g1:AAECAwQFBgcICQoLUyFA+S0JK29lJZ9s/hUdCl6AzRm3bLfJxvwTxwWqoiTV",
    ),
    (
        "super-secret-jwt-token-with-at-least-32-characters-long",
        "iNjicxc4+llvc9wovDvqymwfnj9teWMlyOIbJ8Fh6j2WNU8CIJ2ZgjR6MUIKqSmeDmvpsKLsZ9jgXJmQPpwL8w==",
        "g1:AAECAwQFBgcICQoLS+TbBMUlzCI8Zr8C9yPC/16QyxmrNaHJy64UylylpnDLfGzsWdJZ/Emo05nZUYHo2MpFamSGJT3yTdouu8+3X16YsJ1n3vI=",
    ),
    ("pässwörd", "dZBierUZ0p9Wl9/nFiSZlQ==", "g1:AAECAwQFBgcICQoLzmmKl+9Q6fwfaW7MP4OpFF0mHw+qbxEa2rg="),
];

/// http_and_ops 63
#[test]
fn values_of_other_implementations() {
    for (plain, legacy, gcm) in KNOWN {
        for written in [false, true] {
            assert_eq!(decrypt(&ciphers(written), legacy).as_deref(), Ok(plain));
            assert_eq!(decrypt(&ciphers(written), gcm).as_deref(), Ok(plain));
        }
        assert_eq!(ciphers(false).encrypt(plain).unwrap().as_str(), legacy);
    }
}

proptest! {
    /// http_and_ops 63
    #[test]
    fn both_forms_come_back(plain in ".{0,80}", write_gcm: bool) {
        let ciphers = ciphers(write_gcm);
        let value = ciphers.encrypt(&plain).unwrap();
        prop_assert_eq!(value.is_legacy(), !write_gcm);
        prop_assert_eq!(decrypt(&ciphers, value.as_str()), Ok(plain));
    }

    /// http_and_ops 63
    #[test]
    fn a_changed_bit_is_noticed(plain in ".{0,40}", at: prop::sample::Index, bit in 0..8) {
        let ciphers = ciphers(true);
        let value = ciphers.encrypt(&plain).unwrap();
        let mut bytes = BASE64_STANDARD.decode(value.as_str().strip_prefix(GCM_PREFIX).unwrap()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        let changed = format!("{GCM_PREFIX}{}", BASE64_STANDARD.encode(&bytes));
        prop_assert_eq!(decrypt(&ciphers, &changed), Err(CipherError::Undecipherable));
    }

    #[test]
    fn nothing_panics(value in ".{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let ciphers = ciphers(false);
        let encoded = BASE64_STANDARD.encode(bytes);
        for value in [&value, &encoded, &format!("{GCM_PREFIX}{value}"), &format!("{GCM_PREFIX}{encoded}")] {
            let _ = decrypt(&ciphers, value);
        }
    }
}

/// http_and_ops 63
#[test]
fn block_boundaries() {
    for length in 0..=65 {
        let plain = "x".repeat(length);
        for write_gcm in [false, true] {
            let ciphers = ciphers(write_gcm);
            let value = ciphers.encrypt(&plain).unwrap();
            assert_eq!(decrypt(&ciphers, value.as_str()).as_deref(), Ok(&*plain));
            let encoded = value.as_str().trim_start_matches(GCM_PREFIX);
            // Padding of 1 to 16 bytes; a nonce and a tag.
            let expected = if write_gcm { 12 + 16 + length } else { (length / 16 + 1) * 16 };
            assert_eq!(BASE64_STANDARD.decode(encoded).unwrap().len(), expected);
        }
    }
}

/// http_and_ops 63
#[test]
fn gcm_differs_each_time() {
    let ciphers = ciphers(true);
    assert_ne!(ciphers.encrypt("same").unwrap(), ciphers.encrypt("same").unwrap());
}

#[test]
fn other_keys_do_not_decrypt() {
    let other = Ciphers::new(Some(&"another16bytekey".into()), Some(&"x".repeat(32).into()), true).unwrap();
    // Of 256 wrong paddings one is right by chance: these are not.
    let (_, legacy, gcm) = KNOWN[5];
    assert_eq!(decrypt(&other, legacy), Err(CipherError::Undecipherable));
    assert_eq!(decrypt(&other, gcm), Err(CipherError::Undecipherable));
    let none = Ciphers::default();
    assert_eq!(decrypt(&none, legacy), Err(CipherError::NoLegacyKey));
    assert_eq!(decrypt(&none, gcm), Err(CipherError::NoGcmKey));
    assert_eq!(none.encrypt("x"), Err(CipherError::NoLegacyKey));
}

#[test]
fn keys_have_their_lengths() {
    let short = SecretString::from("short");
    assert_eq!(Ciphers::new(Some(&short), None, false).unwrap_err(), CipherError::LegacyKeyLength);
    assert_eq!(Ciphers::new(None, Some(&short), false).unwrap_err(), CipherError::GcmKeyLength);
    // Without its key the newer form cannot be asked for.
    let ciphers = Ciphers::new(Some(&LEGACY_KEY.into()), None, true).unwrap();
    assert!(!ciphers.writes_gcm() && ciphers.encrypt("x").unwrap().is_legacy());
    assert!(Ciphers::new(None, Some(&GCM_KEY.into()), false).unwrap().writes_gcm());
}

#[test]
fn nothing_prints_a_secret() {
    let ciphers = ciphers(true);
    let text = format!("{ciphers:?} {:?}", ciphers.encrypt("plain").unwrap());
    assert_eq!(text, "Ciphers { legacy: true, gcm: true, write_gcm: true } [GCM ciphertext]");
}
