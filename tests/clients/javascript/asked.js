// What the clients ask: as in asked.py.

import { z } from "zod";

export const API = `${process.env.NODE_URL}/v1`;
export const MODEL = "tiny";
export const EMBEDDER = "embedder";
export const REAL = "gemma";
export const QUESTION = "How warm is it in Paris?";
export const Weather = z.object({
  city: z.enum(["Paris", "Oslo"]),
  degrees: z.number().int().min(0).max(30),
});
