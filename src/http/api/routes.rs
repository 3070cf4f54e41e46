//! Every route of the API, and what lies around all of them.

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, State};
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use tower::Layer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tower_http::normalize_path::{NormalizePath, NormalizePathLayer};
use tower_http::timeout::TimeoutLayer;

use super::caller::Caller;
use super::failure::Failure;
use super::{Api, Settings, WHOLE, groups, reads, writes};
use crate::telemetry::Metrics;
use crate::telemetry::clock::Clock;

/// How long a browser may remember the answer to a preflight.
const PREFLIGHT_AGE: std::time::Duration = std::time::Duration::from_secs(3_600);

fn routes() -> Router<Api> {
    Router::new()
        .route("/{app}/getInfo", get(reads::info))
        .route("/{app}/{user}/conversations", get(reads::conversations))
        .route(
            "/{app}/{user}/conversations/archived",
            get(reads::archived_conversations),
        )
        .route(
            "/{app}/{user}/archived_conversations",
            get(reads::archived_conversations),
        )
        .route(
            "/{app}/{user}/conversations/{peer}",
            get(reads::conversation),
        )
        .route(
            "/{app}/{user}/archived_conversations/{peer}",
            get(reads::archived_conversation),
        )
        .route(
            "/{app}/{user}/conversations/{peer}/messages",
            get(reads::messages),
        )
        .route("/{app}/{user}/instances", get(reads::instances))
        .route("/{app}/{user}/instances/{instance}", post(writes::register))
        .route(
            "/{app}/{user}/conversations/timelines",
            delete(writes::erase_conversations),
        )
        .route(
            "/{app}/{user}/messages/timelines",
            delete(writes::erase_messages),
        )
        .route("/{app}/messages", post(writes::message))
        .route("/{app}/conversations/{peer}", delete(writes::archive))
        .route("/{app}/typings/{recipient}", put(writes::typing))
        .route("/{app}/groups", post(groups::create))
        .route(
            "/{app}/groups/{group}",
            get(reads::group).put(groups::rename),
        )
        .route(
            "/{app}/groups/{group}/attributes",
            put(groups::set_attributes),
        )
        .route(
            "/{app}/groups/{group}/members",
            post(groups::add_member).put(groups::set_members),
        )
        .route(
            "/{app}/groups/{group}/members/{member}",
            delete(groups::remove_member),
        )
}

/// All routes with what lies around them.
pub(super) fn service(api: Api, settings: &Settings) -> NormalizePath<Router> {
    let outside = Router::new()
        .route("/", get(reads::root))
        .route("/verify", get(reads::verify));
    let all = match settings.base.as_str() {
        "" => outside.merge(routes()),
        base => outside.nest(base, routes()),
    };
    let all = all
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .layer(DefaultBodyLimit::max(settings.max_body))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            WHOLE,
        ))
        .layer(from_fn_with_state(api.clone(), finish))
        .layer(cors(settings.origins.as_deref()))
        .layer(from_fn(preflight))
        .with_state(api);
    NormalizePathLayer::trim_trailing_slash().layer(all)
}

/// Unknown routes tell no stranger what there is.
async fn no_route(_: Caller) -> Failure {
    Failure::NoRoute
}

/// Counts a request that is being answered, until it is dropped: clients leave, too.
struct InFlight(Metrics);

impl InFlight {
    fn new(metrics: Metrics) -> Self {
        metrics.api_began();
        Self(metrics)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.api_ended();
    }
}

/// Counts and times a request. Nothing of an answer is kept on the way: it is about one user.
async fn finish(State(api): State<Api>, request: Request<Body>, next: Next) -> Response {
    let began = Clock.now().instant;
    let in_flight = InFlight::new(api.metrics.clone());
    // The template: paths hold what clients send.
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    };
    let mut response = next.run(request).await;
    let took = Clock.now().instant.saturating_duration_since(began);
    let route = matched.as_ref().map(MatchedPath::as_str);
    let status = response.status().as_u16();
    in_flight.0.api_answered(route, method, status, took);
    let value = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, value);
    response
}

/// A preflight is answered with 204, as stock clients' server does.
async fn preflight(request: Request<Body>, next: Next) -> Response {
    let is_preflight = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    if is_preflight && response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    response
}

fn cors(origins: Option<&[String]>) -> CorsLayer {
    let origin = match origins {
        None => AllowOrigin::any(),
        Some(origins) => {
            let origins = origins.iter().filter_map(|origin| origin.parse().ok());
            AllowOrigin::list(origins)
        }
    };
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::PUT,
            Method::PATCH,
            Method::POST,
            Method::DELETE,
        ])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::RETRY_AFTER])
        .max_age(PREFLIGHT_AGE)
}
