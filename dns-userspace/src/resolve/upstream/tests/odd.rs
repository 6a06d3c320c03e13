//! Servers that do not take EDNS, do not keep the case of a question, have names in lower case only, or have no TCP.

use std::sync::Mutex;

use super::*;

const FORMERR: u16 = 0x8181;
const NOTIMP: u16 = 0x8184;
const NXDOMAIN: u16 = 0x8183;

type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

/// A server whose queries are written down.
async fn noting(
    mut script: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
    tcp: Option<TcpScript>,
) -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let log = seen.clone();
    let script: Script = Box::new(move |query| {
        log.lock().unwrap().push(query.to_vec());
        script(query)
    });
    (server(script, tcp).await, seen)
}

fn has_opt(query: &[u8]) -> bool {
    query[11] == 1
}

fn is_lower(query: &[u8]) -> bool {
    !query[12..].iter().any(u8::is_ascii_uppercase)
}

/// The good reply to a question spelled in another way.
fn respelled(query: &[u8], spell: fn(&u8) -> u8) -> Vec<u8> {
    let mut reply = good(query);
    let end = 12 + wire_name(&name(QNAME)).len();
    for byte in &mut reply[12..end] {
        *byte = spell(byte);
    }
    reply
}

async fn ask_by(pool: &Arc<Pool>, server: SocketAddr) -> Result<UpstreamReply, Failure> {
    let policy = RetryPolicy {
        deadline: Instant::now() + LONG,
        retry_after: LONG,
    };
    ask(pool, server, &name(QNAME), RecordType::A, policy).await
}

/// RFC 6891 §6.2.2 and what is seen beside it: with the question, header only with counts that lie or not, BADVERS.
#[tokio::test]
async fn a_server_that_refuses_an_opt_is_asked_without() {
    let with_question = |flags| move |query: &[u8]| reply(query, flags, 0, &[]);
    let header_only = |flags: u16, questions: u8| {
        move |query: &[u8]| {
            let mut header = query[..12].to_vec();
            header[2..4].copy_from_slice(&flags.to_be_bytes());
            header[5] = questions;
            header
        }
    };
    let badvers = |query: &[u8]| {
        let mut message = reply(query, 0x8180, 0, &[]);
        message[11] = 1;
        message.extend_from_slice(b"\0\0\x29\x02\0\x01\0\0\0\0\0");
        message
    };
    let lower_formerr = |query: &[u8]| {
        let mut message = reply(query, FORMERR, 0, &[]);
        message[12..].make_ascii_lowercase();
        message
    };
    type Refusal = Box<dyn Fn(&[u8]) -> Vec<u8> + Send>;
    let refusals: Vec<(&str, Refusal)> = vec![
        ("FORMERR", Box::new(with_question(FORMERR))),
        ("NOTIMP", Box::new(with_question(NOTIMP))),
        ("FORMERR, header only", Box::new(header_only(FORMERR, 0))),
        ("NOTIMP, header only", Box::new(header_only(NOTIMP, 0))),
        ("header of the query", Box::new(header_only(FORMERR, 1))),
        ("SERVFAIL, header only", Box::new(header_only(0x8182, 0))),
        ("REFUSED, header only", Box::new(header_only(0x8185, 1))),
        ("BADVERS", Box::new(badvers)),
        ("FORMERR, other case", Box::new(lower_formerr)),
    ];
    for (label, refusal) in refusals {
        let script = move |query: &[u8]| {
            vec![if has_opt(query) {
                refusal(query)
            } else {
                good(query)
            }]
        };
        let (server, seen) = noting(script, None).await;
        let pool = Arc::new(Pool::new(16));
        let asked = ask_by(&pool, server).await.unwrap();
        assert_eq!(asked.retries, [RetryReason::WithoutEdns], "{label}");
        assert_good(Ok((asked.message, asked.transport)), Transport::Udp);
        assert_eq!(seen.lock().unwrap().len(), 2, "{label}");
        // From now on at once.
        let asked = ask_by(&pool, server).await.unwrap();
        assert!(asked.retries.is_empty(), "{label}");
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 3, "{label}");
        assert!(!has_opt(&seen[2]), "{label}");
        assert_ne!(seen[0][..2], seen[1][..2], "{label}: another ID");
    }
}

#[tokio::test]
async fn an_error_of_another_question_is_not_taken_for_a_refusal() {
    for change in [0, 13] {
        let script = move |query: &[u8]| {
            let mut forged = reply(query, FORMERR, 0, &[]);
            forged[change] ^= 1;
            vec![forged, good(query)]
        };
        let (server, seen) = noting(script, None).await;
        assert_good(ask_it(server).await, Transport::Udp);
        assert_eq!(seen.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_server_that_fails_without_an_opt_too_is_not_remembered() {
    let (server, seen) = noting(|query| vec![reply(query, FORMERR, 0, &[])], None).await;
    let pool = Arc::new(Pool::new(16));
    for _ in 0..2 {
        let asked = ask_by(&pool, server).await.unwrap();
        assert_eq!(asked.message.metadata.response_code, ResponseCode::FormErr);
    }
    let opts: Vec<bool> = seen.lock().unwrap().iter().map(|q| has_opt(q)).collect();
    assert!(opts[0], "{opts:?}");
    assert_eq!(opts.iter().filter(|opt| **opt).count(), 2, "{opts:?}");
}

#[tokio::test]
async fn where_queries_with_an_opt_get_lost_the_later_tries_do_without() {
    let script = |query: &[u8]| {
        if has_opt(query) {
            vec![]
        } else {
            vec![good(query)]
        }
    };
    let (server, seen) = noting(script, None).await;
    let pool = Arc::new(Pool::new(16));
    let policy = RetryPolicy {
        deadline: Instant::now() + LONG,
        retry_after: Duration::from_millis(10),
    };
    let asked = ask(&pool, server, &name(QNAME), RecordType::A, policy).await;
    assert_eq!(asked.unwrap().retries, [RetryReason::WithoutEdns]);
    seen.lock().unwrap().clear();
    assert!(ask_by(&pool, server).await.unwrap().retries.is_empty());
    assert!(!has_opt(&seen.lock().unwrap()[0]));
}

#[tokio::test]
async fn a_server_that_lower_cases_the_question_is_asked_in_lower_case() {
    let script = |query: &[u8]| vec![respelled(query, u8::to_ascii_lowercase)];
    let (server, seen) = noting(script, None).await;
    let pool = Arc::new(Pool::new(16));
    // The chance that a name of thirty letters stays in lower case is nil.
    let asked = ask_by(&pool, server).await.unwrap();
    assert_eq!(asked.retries, [RetryReason::CaseNotKept]);
    assert_good(Ok((asked.message, asked.transport)), Transport::Udp);
    assert!(ask_by(&pool, server).await.unwrap().retries.is_empty());
    let seen = seen.lock().unwrap();
    let lower: Vec<bool> = seen.iter().map(|query| is_lower(query)).collect();
    assert_eq!(lower, [false, true, true]);
    assert_ne!(seen[0][..2], seen[1][..2], "another ID");
}

/// In upper case, or as a zone file spells it: not even lower case comes back.
#[tokio::test]
async fn a_server_that_changes_the_case_of_the_question_is_asked_over_tcp() {
    let zone_file = |byte: &u8| {
        if *byte == b'k' || *byte == b'K' {
            b'K'
        } else {
            byte.to_ascii_lowercase()
        }
    };
    for spell in [u8::to_ascii_uppercase, zone_file] {
        let script = move |query: &[u8]| vec![respelled(query, spell)];
        let tcp = |query: &[u8]| respelled(query, u8::to_ascii_uppercase);
        let (server, _) = noting(script, Some(tcp)).await;
        assert_good(ask_it(server).await, Transport::Tcp);
    }
}

#[tokio::test]
async fn a_name_that_exists_in_lower_case_only_is_found() {
    for (label, flags) in [
        ("NXDOMAIN", NXDOMAIN),
        ("REFUSED", 0x8185),
        ("NOTAUTH", 0x8189),
        ("nothing", 0x8180),
    ] {
        let script = move |query: &[u8]| {
            vec![if is_lower(query) {
                good(query)
            } else {
                reply(query, flags, 0, &[])
            }]
        };
        let (server, seen) = noting(script, None).await;
        let pool = Arc::new(Pool::new(16));
        let asked = ask_by(&pool, server).await.unwrap();
        assert_eq!(asked.retries, [RetryReason::LowerCase], "{label}");
        assert_good(Ok((asked.message, asked.transport)), Transport::Udp);
        assert!(ask_by(&pool, server).await.unwrap().retries.is_empty());
        assert_eq!(seen.lock().unwrap().len(), 3, "{label}");
    }
}

#[tokio::test]
async fn a_name_that_does_not_exist_takes_two_questions_and_keeps_the_mixed_case() {
    let (server, seen) = noting(|query| vec![reply(query, NXDOMAIN, 0, &[])], None).await;
    let pool = Arc::new(Pool::new(16));
    for _ in 0..2 {
        let asked = ask_by(&pool, server).await.unwrap();
        assert_eq!(asked.message.metadata.response_code, ResponseCode::NXDomain);
    }
    let lower: Vec<bool> = seen.lock().unwrap().iter().map(|q| is_lower(q)).collect();
    assert_eq!(lower, [false, true, false, true]);
}

/// A denial that is not confirmed must not cost the tenant its endpoint; an error is one either way.
#[tokio::test]
async fn an_unconfirmed_denial_is_a_failure() {
    for (flags, expected) in [
        (NXDOMAIN, Err(Failure::Timeout)),
        (0x8182, Ok(ResponseCode::ServFail)),
    ] {
        let script = move |query: &[u8]| {
            if is_lower(query) {
                vec![]
            } else {
                vec![reply(query, flags, 0, &[])]
            }
        };
        let (server, _) = noting(script, None).await;
        let (short, again) = (Duration::from_millis(60), Duration::from_millis(20));
        let result = ask_within(server, short, again).await;
        assert_eq!(
            result.map(|(message, _)| message.metadata.response_code),
            expected
        );
    }
}

#[tokio::test]
async fn no_edns_and_no_case_together() {
    let script = |query: &[u8]| {
        vec![if has_opt(query) {
            reply(query, FORMERR, 0, &[])
        } else {
            respelled(query, u8::to_ascii_lowercase)
        }]
    };
    let (server, seen) = noting(script, None).await;
    let pool = Arc::new(Pool::new(16));
    let asked = ask_by(&pool, server).await.unwrap();
    assert_eq!(
        asked.retries,
        [RetryReason::WithoutEdns, RetryReason::CaseNotKept]
    );
    assert!(ask_by(&pool, server).await.unwrap().retries.is_empty());
    assert_eq!(seen.lock().unwrap().len(), 4);
}

fn truncated(query: &[u8]) -> Vec<Vec<u8>> {
    vec![reply(query, 0x8380, 0, &[])]
}

#[tokio::test]
async fn truncation_without_tcp_is_labelled_as_that() {
    // Refused.
    let refusing = server(Box::new(truncated), None).await;
    assert_eq!(ask_it(refusing).await.unwrap_err(), Failure::Tcp);

    // Accepted and closed, accepted and silent, and never accepted: the backlog takes the connection.
    for close in [Some(true), Some(false), None] {
        let (udp, listener) = bind_both().await;
        let address = udp.local_addr().unwrap();
        tokio::spawn(serve_udp(udp, Box::new(truncated)));
        let acceptor = tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                match close {
                    None => std::future::pending().await,
                    Some(close) => {
                        let (stream, _) = listener.accept().await.unwrap();
                        if !close {
                            open.push(stream);
                        }
                    }
                }
            }
        });
        let (short, again) = (Duration::from_millis(100), LONG);
        let failure = ask_within(address, short, again).await.unwrap_err();
        assert_eq!(failure, Failure::Tcp, "{close:?}");
        acceptor.abort();
    }
}
