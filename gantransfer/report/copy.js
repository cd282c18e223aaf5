// The page works without this: it only shows the copy button and makes it copy the command.
(function () {
  var button = document.getElementById("copy");
  var command = document.getElementById("command");
  if (!button || !command || !navigator.clipboard) return;
  button.hidden = false;
  button.addEventListener("click", function () {
    navigator.clipboard.writeText(command.textContent).then(function () {
      button.textContent = "Copied";
      setTimeout(function () { button.textContent = "Copy"; }, 1500);
    });
  });
})();
