#!/bin/sh
# Fetch Swagger UI and ReDoc from npm into ghost/docs/static/.
# Usage: scripts/vendor-docs.sh SWAGGER_UI_VERSION REDOC_VERSION
set -eu

cd "$(dirname "$0")/.."
swagger=${1:?version of swagger-ui-dist}
redoc=${2:?version of redoc}
target=$PWD/ghost/docs/static
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$work"
npm pack --silent "swagger-ui-dist@$swagger" "redoc@$redoc" >/dev/null
mkdir swagger redoc
tar xzf "swagger-ui-dist-$swagger.tgz" -C swagger --strip-components=1
tar xzf "redoc-$redoc.tgz" -C redoc --strip-components=1

# Source maps are not shipped, so nothing may point at them.
strip_maps() {
    sed -e '/^\/[*/][#@] sourceMappingURL=[^ ]*\( *\*\/\)\{0,1\}$/d' "$1"
}

mkdir -p "$target/swagger-ui" "$target/redoc"
strip_maps swagger/swagger-ui-bundle.js >"$target/swagger-ui/swagger-ui-bundle.js"
strip_maps swagger/swagger-ui.css >"$target/swagger-ui/swagger-ui.css"
cp swagger/favicon-32x32.png swagger/LICENSE swagger/NOTICE "$target/swagger-ui/"
cp swagger/swagger-ui-bundle.js.LICENSE.txt "$target/swagger-ui/"

# ReDoc shows a logo from a foreign host; an empty picture takes its place, so that the page asks
# nobody but its own server.
empty='data:image/svg+xml,%3Csvg xmlns=%22http://www.w3.org/2000/svg%22/%3E'
strip_maps redoc/bundles/redoc.standalone.js |
    sed -e "s|https://cdn\.redoc\.ly/redoc/logo-mini\.svg|$empty|" >"$target/redoc/redoc.standalone.js"
if grep -q 'cdn\.redoc' "$target/redoc/redoc.standalone.js"; then
    echo "ReDoc still names a foreign host: look at scripts/vendor-docs.sh" >&2
    exit 1
fi
cp redoc/LICENSE redoc/bundles/redoc.standalone.js.LICENSE.txt "$target/redoc/"

cat >"$target/VERSIONS.md" <<END
Made by \`scripts/vendor-docs.sh $swagger $redoc\`; not edited by hand.

| package | version | licence | change |
|---|---|---|---|
| swagger-ui-dist | $swagger | Apache-2.0 | without source maps |
| redoc | $redoc | MIT | without source maps; its logo, fetched from another host, is an empty picture |
END
