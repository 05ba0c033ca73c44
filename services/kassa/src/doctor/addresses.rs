//! Do the addresses that others are given lead here, and ours lead to them?

use kassa_chassis::config::Config;
use tokio::{net::TcpStream, time::timeout};

use super::{ANSWER_MAX, Findings};

const AREA: &str = "addresses";

pub(super) async fn examine(config: &Config, findings: &mut Findings) {
    if let Some(url) = &config.http.public_url {
        answers(
            "http.public_url",
            url,
            "shoppers and shops are sent to an address that nobody answers",
            findings,
        )
        .await;
    }
    if let Some(url) = &config.simulator.notification_url {
        if !url.ends_with('=') {
            findings.wrong(
                AREA,
                format!("simulator.notification_url is {url}, which does not end with ="),
                "the reference is appended to it: no notification would name its order",
                "set it to http://HOST/hooks/cm/SHOP?id=",
            );
        }
        let why = "no notification of the simulator arrives: payments are found by the poller alone";
        answers("simulator.notification_url", url, why, findings).await;
    }
    for (name, shop) in &config.shops {
        let key = format!("shops.{name}.cm.rest_url");
        answers(
            &key,
            &shop.cm.rest_url,
            "no payment of this shop can be started or read",
            findings,
        )
        .await;
    }
}

/// Whether somebody takes a connection there; nothing is asked of them.
async fn answers(key: &str, text: &str, why: &'static str, findings: &mut Findings) {
    let parsed = url::Url::parse(text).ok();
    let place = parsed.as_ref().and_then(|url| {
        Some((
            url.host_str()?.trim_matches(['[', ']']).to_owned(),
            url.port_or_known_default()?,
        ))
    });
    let Some((host, port)) = place else {
        findings.wrong(
            AREA,
            format!("{key} is no address"),
            why,
            format!("set {key} to https://host/…"),
        );
        return;
    };
    let trouble = match timeout(ANSWER_MAX, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(_)) => {
            findings.ok(AREA, format!("{key} is answered at {host}:{port}"));
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    findings.wrong(
        AREA,
        format!("{key} leads to {host}:{port}: {trouble}"),
        why,
        format!("correct {key}, or start what should listen there"),
    );
}
