// What pages do where scripts run: search, buttons that copy commands, and how long ago reports were made.
// Text only ever gets into the page as text.
"use strict";
(function () {
  var root = document.body.getAttribute("data-root");
  var form = document.querySelector(".search");
  var input = document.getElementById("search");
  var results = document.getElementById("results");
  var found = document.getElementById("found");
  var hits = document.getElementById("hits");
  var most = 50;
  var texts = null;

  // The index is read once somebody searches.
  var asked = false;
  function load() {
    if (asked) return;
    asked = true;
    var script = document.createElement("script");
    script.src = root + "search.js";
    script.onload = function () {
      texts = krtpkgSearch.map(function (entry) { return entry.join(" ").toLowerCase(); });
      show();
    };
    script.onerror = function () { found.textContent = "The index of the search cannot be read."; results.hidden = false; };
    document.head.appendChild(script);
  }

  // How well an entry fits: the less the better.
  function rank(entry, words) {
    var name = entry[1].toLowerCase();
    if (name === words.join(" ")) return 0;
    if (name.indexOf(words[0]) === 0) return 1;
    return name.indexOf(words[0]) > 0 ? 2 : 3;
  }

  function show() {
    var words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    hits.textContent = "";
    results.hidden = words.length === 0;
    if (words.length === 0 || texts === null) return;
    var all = [];
    for (var i = 0; i < texts.length; i++) {
      var text = texts[i];
      if (words.every(function (word) { return text.indexOf(word) >= 0; })) all.push([rank(krtpkgSearch[i], words), i]);
    }
    all.sort(function (a, b) { return a[0] - b[0] || a[1] - b[1]; });
    found.textContent = all.length === 0 ? "Nothing found." : all.length > most ? all.length + " found, the first " + most + " are shown." : all.length + " found.";
    all.slice(0, most).forEach(function (hit) {
      var entry = krtpkgSearch[hit[1]];
      var item = document.createElement("li");
      var link = document.createElement("a");
      link.href = root + entry[3];
      link.textContent = entry[1];
      var note = document.createElement("small");
      note.textContent = entry[0] + (entry[2] ? ": " + entry[2] : "");
      item.appendChild(link);
      item.appendChild(note);
      hits.appendChild(item);
    });
  }

  form.hidden = false;
  form.addEventListener("submit", function (event) {
    event.preventDefault();
    var first = hits.querySelector("a");
    if (first) first.click();
  });
  input.addEventListener("focus", load);
  input.addEventListener("input", function () { load(); show(); });
  document.addEventListener("keydown", function (event) {
    if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      input.focus();
    }
    if (event.key === "Escape" && !results.hidden) {
      input.value = "";
      show();
      input.focus();
    }
  });

  document.querySelectorAll("pre.command").forEach(function (block) {
    var text = block.textContent;
    var button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", function () {
      var range = document.createRange();
      range.selectNodeContents(block.querySelector("code"));
      var selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      var copied = function (done) { button.textContent = done ? "Copied" : "Selected"; };
      if (navigator.clipboard) navigator.clipboard.writeText(text).then(function () { copied(true); }, function () { copied(false); });
      else copied(document.execCommand("copy"));
    });
    block.appendChild(button);
  });

  document.querySelectorAll(".age time").forEach(function (time) {
    var days = Math.floor((Date.now() - Date.parse(time.getAttribute("datetime"))) / 864e5);
    if (days >= 0) time.textContent += " (" + (days === 0 ? "today" : days === 1 ? "a day ago" : days + " days ago") + ")";
  });
})();
