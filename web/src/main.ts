import { mount } from "svelte";
import App from "./App.svelte";
import "./app.css";
import { appearance } from "./stores/appearance.svelte";

appearance.show();
mount(App, { target: document.getElementById("page")! });
