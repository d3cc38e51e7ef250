//! The first message of TLS, read for the one name in it (RFC 8446, RFC 6066).

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const HOST_NAME: u8 = 0;

/// More than any client sends before its first answer.
pub const MAX_BYTES: usize = 32 << 10;

/// What the beginning of a stream is.
#[derive(Debug, PartialEq, Eq)]
pub enum Hello {
    /// More must come.
    Incomplete,
    /// A whole message that names this server, as it stands there.
    Names(String),
    /// Not TLS, no name, several names, or a name that is hidden behind this one.
    Refused,
}

/// Reads the bytes that have come.
pub fn read(stream: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = stream;
    loop {
        if let Some(whole) = whole_message(&message) {
            return match whole {
                Some(hello) => server_name(hello).map_or(Hello::Refused, Hello::Names),
                None => Hello::Refused,
            };
        }
        let Some((&kind, _)) = rest.split_first() else { break };
        if kind != HANDSHAKE {
            return Hello::Refused;
        }
        let Some(head) = rest.first_chunk::<5>() else { break };
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if head[1] != 3 || length == 0 || length > 1 << 14 {
            return Hello::Refused;
        }
        let Some(fragment) = rest.get(5..5 + length) else { break };
        message.extend_from_slice(fragment);
        rest = &rest[5 + length..];
    }
    if stream.len() >= MAX_BYTES { Hello::Refused } else { Hello::Incomplete }
}

/// `None` while it is incomplete; `Some(None)` when it is another message.
fn whole_message(message: &[u8]) -> Option<Option<&[u8]>> {
    let (&kind, rest) = message.split_first()?;
    if kind != CLIENT_HELLO {
        return Some(None);
    }
    let head = rest.first_chunk::<3>()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    rest.get(3..3 + length).map(Some)
}

fn server_name(hello: &[u8]) -> Option<String> {
    let mut hello = Reader(hello);
    hello.take(2 + 32)?;
    hello.vector8()?;
    hello.vector16()?;
    hello.vector8()?;
    let mut extensions = Reader(hello.vector16()?);
    let mut name = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number16()?;
        let body = extensions.vector16()?;
        match kind {
            // The name that counts would be another one.
            ENCRYPTED_CLIENT_HELLO => return None,
            SERVER_NAME if name.is_some() => return None,
            SERVER_NAME => {
                let mut list = Reader(Reader(body).vector16()?);
                if list.take(1)? != [HOST_NAME] {
                    return None;
                }
                let host = list.vector16()?;
                if !list.0.is_empty() {
                    return None;
                }
                name = Some(std::str::from_utf8(host).ok()?.to_owned());
            }
            _ => {}
        }
    }
    name
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.number16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector16(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u16).to_be_bytes()[..], body].concat()
    }

    fn names(host: &str) -> (u16, Vec<u8>) {
        (SERVER_NAME, vector16(&[&[HOST_NAME][..], &vector16(host.as_bytes())].concat()))
    }

    fn hello(extensions: &[(u16, Vec<u8>)], fragment: usize) -> Vec<u8> {
        let extensions: Vec<u8> =
            extensions.iter().flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &vector16(body)].concat()).collect();
        let body = [&[3, 3][..], &[7; 32], &[0], &vector16(&[0x13, 1]), &[1, 0], &vector16(&extensions)].concat();
        let message = [&[CLIENT_HELLO, 0][..], &vector16(&body)].concat();
        message.chunks(fragment).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &vector16(part)].concat()).collect()
    }

    #[test]
    fn the_name_is_found_however_the_message_is_cut() {
        for fragment in [1, 7, 1000] {
            let bytes = hello(&[(10, vec![0]), names("api.example.com")], fragment);
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Hello::Incomplete, "{end}");
            }
            assert_eq!(read(&bytes), Hello::Names("api.example.com".to_owned()));
        }
    }

    #[test]
    fn what_names_no_server_or_hides_one_is_refused() {
        let hidden = (ENCRYPTED_CLIENT_HELLO, vec![0]);
        for extensions in [vec![], vec![names("a.b"), names("c.d")], vec![names("a.b"), hidden]] {
            assert_eq!(read(&hello(&extensions, 1000)), Hello::Refused);
        }
        for other in
            [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x", &[HANDSHAKE, 2, 0, 0, 1, 1], &[HANDSHAKE, 3, 1, 0, 1, 2]]
        {
            assert_eq!(read(other), Hello::Refused, "{other:?}");
        }
        assert_eq!(read(&[HANDSHAKE, 3, 1, 0, 0]), Hello::Refused);
    }

    #[test]
    fn noise_behind_a_beginning_is_never_a_panic() {
        let good = hello(&[names("api.example.com")], 1000);
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                read(&bytes);
            }
        }
    }
}
