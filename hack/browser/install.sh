#!/usr/bin/env bash
# Installs the browser and npm, which tests of pages need, from Debian's packages where root may. Without them those
# tests fail, and say what to install.
set -uo pipefail

has_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null
has_npm() { command -v npm; } >/dev/null

packages=()
has_browser || packages+=(chromium fonts-dejavu-core)
has_npm || packages+=(npm)
if [ "${#packages[@]}" = 0 ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	exit 0
fi
echo "installing ${packages[*]}"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
exit 0
