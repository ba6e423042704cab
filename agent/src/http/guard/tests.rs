//! The rules that every request passes before a route is looked at.

use http::Request;

use super::*;

fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut builder = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).expect("a request").into_parts().0
}

fn verdict(head: &Parts) -> Result<Endpoint, Code> {
    let call = check(Socket::Jobs, head, &HttpLimits::default());
    call.map(|call| call.endpoint)
        .map_err(|refusal| refusal.problem.code)
}

fn with(headers: &[(&str, &str)]) -> Result<Endpoint, Code> {
    let mut all = vec![("host", "localhost"), (CLIENT_HEADER, "test")];
    all.extend(headers);
    verdict(&head("GET", "/v1/whoami", &all))
}

#[test]
fn a_plain_request_passes() {
    assert_eq!(with(&[]), Ok(Endpoint::WhoAmI));
}

#[test]
fn the_client_header_guards_all_but_the_open_paths() {
    let host = ("host", "localhost");
    for value in [
        None,
        Some(""),
        Some("  "),
        Some("\u{e9}"),
        Some(&"x".repeat(101)[..]),
    ] {
        let client = value.map(|value| (CLIENT_HEADER, value));
        let headers: Vec<_> = [host].into_iter().chain(client).collect();
        let got = verdict(&head("GET", "/v1/whoami", &headers));
        assert_eq!(got, Err(Code::ClientHeaderMissing), "{value:?}");
    }
    for path in ["/ping", "/version", "/openapi.json"] {
        assert!(verdict(&head("GET", path, &[host])).is_ok(), "{path}");
    }
}

#[test]
fn an_origin_is_refused_whatever_it_says() {
    assert_eq!(with(&[("origin", "null")]), Err(Code::CrossProtocol));
}

#[test]
fn routable_hosts_are_refused() {
    for host in ["example.com", "localhost:80", "127.0.0.1", "[::1]", "a@b"] {
        let got = verdict(&head("GET", "/ping", &[("host", host)]));
        assert_eq!(got, Err(Code::BadRequest), "{host}");
    }
    for host in ["localhost", "quaymaster", ""] {
        assert!(
            verdict(&head("GET", "/ping", &[("host", host)])).is_ok(),
            "{host}"
        );
    }
    assert_eq!(verdict(&head("GET", "/ping", &[])), Err(Code::BadRequest));
    assert_eq!(with(&[("host", "localhost")]), Err(Code::BadRequest));
}

#[test]
fn absolute_uris_are_for_the_named_host_only() {
    let host = ("host", "localhost");
    let ask = |uri| verdict(&head("GET", uri, &[host]));
    assert_eq!(ask("http://localhost/ping"), Ok(Endpoint::Ping));
    for uri in [
        "http://other/ping",
        "http://localhost:80/ping",
        "http://vault.internal/ping",
        "http://u@localhost/ping",
    ] {
        assert_eq!(ask(uri), Err(Code::BadRequest), "{uri}");
    }
}

#[test]
fn upgrades_trailers_and_odd_expectations_are_refused() {
    for header in [
        ("upgrade", "websocket"),
        ("upgrade", "h2c"),
        ("trailer", "x"),
        ("expect", "200-ok"),
        ("content-length", "3"),
        ("transfer-encoding", "chunked"),
    ] {
        assert_eq!(with(&[header]), Err(Code::BadRequest), "{header:?}");
    }
    assert!(with(&[("content-length", "0")]).is_ok());
}

#[test]
fn too_many_or_too_big_headers_are_431() {
    let big = "x".repeat(33 << 10);
    assert_eq!(with(&[("x-big", &big)]), Err(Code::HeadersTooLarge));
    let many: Vec<_> = (0..101).map(|_| ("x-many", "1")).collect();
    assert_eq!(with(&many), Err(Code::HeadersTooLarge));
}

#[test]
fn unknown_parameters_are_400_where_the_path_is_known() {
    let headers = [("host", "localhost"), (CLIENT_HEADER, "test")];
    let ask = |uri| verdict(&head("POST", uri, &headers));
    assert_eq!(ask("/v1/deploys?dryrun=true"), Err(Code::BadRequest));
    assert_eq!(ask("/v1/deploys?dry_run=true"), Ok(Endpoint::Submit));
    assert_eq!(ask("/v1/nothing?dryrun=true"), Err(Code::NotFound));
}

fn tokens(headers: &[(&str, &str)]) -> Result<(bool, bool), Code> {
    let presented = presented(&head("GET", "/", headers).headers);
    presented
        .map(|presented| {
            (
                presented.id_token.is_some(),
                presented.vault_token.is_some(),
            )
        })
        .map_err(|refusal| refusal.problem.code)
}

#[test]
fn the_bearer_scheme_has_any_case_and_one_value() {
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let value = format!("{scheme} abc.def");
        assert_eq!(tokens(&[("authorization", &value)]), Ok((true, false)));
    }
    assert_eq!(
        tokens(&[("authorization", "Bearer a"), ("x-vault-token", "b")]),
        Ok((true, true))
    );
    assert_eq!(
        tokens(&[("authorization", "Bearer a"), ("authorization", "Bearer a")]),
        Err(Code::BadRequest)
    );
    assert_eq!(tokens(&[]), Err(Code::TokenMissing));
    let long = format!("Bearer {}", "a".repeat(MAX_TOKEN + 1));
    for value in ["Basic abc", "Bearer", "Bearer ", "Bearer a b", "abc", &long] {
        assert_eq!(
            tokens(&[("authorization", value)]),
            Err(Code::TokenMalformed),
            "{value}"
        );
    }
}

#[test]
fn idempotency_keys_are_visible_ascii() {
    let key = |value: &str| {
        let head = head("GET", "/", &[("idempotency-key", value)]);
        idempotency_key(&head.headers).map_err(|refusal| refusal.problem.status)
    };
    assert_eq!(key("a-1"), Ok(Some("a-1".to_owned())));
    for bad in ["", "a b", "\u{e9}", &"x".repeat(256)] {
        assert_eq!(key(bad), Err(400), "{bad}");
    }
}
