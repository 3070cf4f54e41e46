//! Every route of the API, and what lies around all of them.

use std::cell::Cell;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, State};
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use tower::Layer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tower_http::normalize_path::{NormalizePath, NormalizePathLayer};
use tower_http::timeout::TimeoutLayer;
use utoipa::openapi::Server;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::Caller;
use super::failure::Failure;
use super::{Api, Settings, groups, reads, writes};
use crate::telemetry::Metrics;
use crate::telemetry::clock::Clock;

/// How long a browser may remember the answer to a preflight.
const PREFLIGHT_AGE: std::time::Duration = std::time::Duration::from_secs(3_600);

/// Each route stands with its handler; this is the list of handlers, and the description that is
/// made of them.
fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(reads::info))
        .routes(routes!(reads::conversations))
        .routes(routes!(reads::conversations_archived))
        .routes(routes!(reads::archived_conversations))
        .routes(routes!(reads::conversation))
        .routes(routes!(reads::archived_conversation))
        .routes(routes!(reads::messages))
        .routes(routes!(reads::instances))
        .routes(routes!(writes::register))
        .routes(routes!(writes::erase_conversations))
        .routes(routes!(writes::erase_messages))
        .routes(routes!(writes::message))
        .routes(routes!(writes::archive))
        .routes(routes!(writes::typing))
        .routes(routes!(groups::create))
        .routes(routes!(reads::group, groups::rename))
        .routes(routes!(groups::set_attributes))
        .routes(routes!(groups::add_member, groups::set_members))
        .routes(routes!(groups::remove_member))
}

/// What the description says of all routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "chat21-observer",
        description = "The HTTP API that stock Chat21 clients know. A token goes into the header \
                       Authorization, bare or behind Bearer, or into the query as jwt."
    ),
    security(("token" = [])),
    modifiers(&TokenScheme)
)]
struct Description;

struct TokenScheme;

impl Modify for TokenScheme {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// All routes with what lies around them.
pub(super) fn service(api: Api, settings: &Settings) -> NormalizePath<Router> {
    let outside = Router::new()
        .route("/", get(reads::root))
        .route("/verify", get(reads::verify));
    let (routes, mut openapi) = routes().split_for_parts();
    let base = settings.base.as_str();
    openapi.servers = Some(vec![Server::new(if base.is_empty() { "/" } else { base })]);
    let openapi = serde_json::to_vec(&openapi).expect("a description has a form in JSON");
    let openapi = Bytes::from(openapi);
    let describe = move || async move { ([(header::CONTENT_TYPE, "application/json")], openapi) };
    let routes = routes.route("/openapi.json", get(describe));
    let all = match base {
        "" => outside.merge(routes),
        base => outside.nest(base, routes),
    };
    let all = all
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .layer(DefaultBodyLimit::max(settings.max_body))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            settings.limits.whole,
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

tokio::task_local! {
    /// Whether something was handed in to be written for the request that this task serves.
    static HANDED_IN: Cell<bool>;
}

/// Something is handed in for the request that this task serves.
pub(super) fn note_handed_in() {
    HANDED_IN.with(|handed_in| handed_in.set(true));
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
    let answering = async { (next.run(request).await, HANDED_IN.with(Cell::get)) };
    let (mut response, is_handed_in) = HANDED_IN.scope(Cell::new(false), answering).await;
    // What was to be written may be stored any moment.
    if response.status() == StatusCode::REQUEST_TIMEOUT && is_handed_in {
        response = Failure::Unknown.into_response();
    }
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
