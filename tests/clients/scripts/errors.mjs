import { ApiError, ValidationError, endpoint, failure, fal, parameters, report } from "./client.mjs";

const told = async (task) => {
  const { error, ...rest } = await failure(task);
  const isValidation = error instanceof ValidationError;
  return {
    ...rest,
    isApiError: error instanceof ApiError,
    isValidation,
    fields: isValidation ? error.getFieldErrors(parameters.field) : null,
    isUserTimeout: error.isUserTimeout,
  };
};
const { input } = parameters;
report({
  run: await told(fal.run(endpoint, { input, startTimeout: parameters.startTimeout })),
  subscribe: await told(
    fal.subscribe(endpoint, { input, pollInterval: 20, startTimeout: parameters.startTimeout }),
  ),
});
